"""img2dataset on the same pictures, served from this machine, into TFRecords; nothing is resized."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pathlib
import threading
import urllib.parse

import shared


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for news
    from img2dataset import download

    rows, output, _, _ = shared.arguments()
    folder = pathlib.Path(rows[0][0]).parent
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_address[1]}/"
        listed = output / "list.csv"
        lines = [f'{base}{urllib.parse.quote(pathlib.Path(path).name)},"{caption}"' for path, caption in rows]
        listed.write_text("\n".join(["url,caption", *lines]))
        download(
            url_list=str(listed),
            input_format="csv",
            url_col="url",
            caption_col="caption",
            output_folder=str(output / "shards"),
            output_format="tfrecord",
            resize_mode="no",
            processes_count=os.cpu_count(),
            thread_count=16,
            compute_hash="sha256",
            number_sample_per_shard=max(1, len(rows) // 2),
            disallowed_header_directives=[],
        )
        server.shutdown()
    # It ends well whatever has failed.
    told = [json.loads(file.read_text()) for file in (output / "shards").glob("*_stats.json")]
    assert sum(one["successes"] for one in told) == len(rows), told


if __name__ == "__main__":
    main()
