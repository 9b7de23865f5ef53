"""Whether a SavedModel may be loaded: loading one runs its graph, and a graph can read, write and send files.

Looks at the graph as it lies on the disk: nothing of it runs. TensorFlow itself says of every op whether it is
stateful, that is, whether it touches anything but its inputs. Of those, the ones that models compute with are allowed
by name (variables, tables, random numbers, control flow), so that an op nobody thought of is refused. Some are wrongly
called stateless (`ReadFile`, for one); those are refused by name.

What is refused may be harmless, and what is allowed may loop without end or take all memory: a model is a program.
"""

from __future__ import annotations

import functools
import hashlib
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

_GRAPH = "saved_model.pb"
_OTHER_GRAPHS = ("saved_model.cpb", "saved_model.pbtxt")  # TensorFlow would take the first of these before the other
_LIMIT = (1 << 31) - 1  # no protocol buffer is larger

_STATEFUL = re.compile(
    # control flow, loops, checks
    r"If|While|Case|Assert|CheckNumerics(V2)?|GuaranteeConst|Print|TensorArray\w*|Stack\w*|Empty|IsTensorFloat32Enabled"
    # variables, with the optimisers that some models carry along
    r"|VarHandleOp|ReadVariableOp|Assign(Add|Sub)?VariableOp|VarIsInitializedOp|VariableShape|Variable(V2)?"
    r"|DestroyResourceOp|DisableCopyOnRead|ResourceGather(Nd)?|ResourceScatter\w+|ResourceStridedSliceAssign"
    r"|Resource(Sparse)?Apply\w+"
    # tables of words; `InitializeTableFromTextFileV2` see below
    r"|(Anonymous)?(Mutable)?(Dense)?HashTable(OfTensors)?(V2)?|InitializeTableV2|LookupTable\w+V2"
    # random numbers; StatefulPartitionedCall, whose function is looked at by itself
    r"|Random(StandardNormal|Uniform|UniformInt|Shuffle|Gamma|Poisson|PoissonV2|Crop)|(Parameterized)?TruncatedNormal"
    r"|Multinomial|Stateful\w+|StatelessRandomGetAlg|Rng(ReadAndSkip|Skip)|SampleDistortedBoundingBox(V2)?"
    r"|CudnnRNN\w*"
)
"""Stateful ops that are allowed; all others are refused."""

_STATELESS = re.compile(
    # files: ReadFile, MatchingFiles, ImmutableConst (maps a file), vocabularies, descriptors of protocol buffers
    r"File|Reader|Save|Restore|Snapshot|Vocab|Proto|^ImmutableConst$"
    # input pipelines read files; what holds a program of its own cannot be looked into
    r"|Dataset|Iterator|Mlir"
    # other programs and machines; Abort ends this one; debugging writes and sends what it sees
    r"|PyFunc|CustomCall|XlaHost|Remote|Rpc|Send|Recv|Nccl|Collective|T[Pp][Uu]|^Abort$|Debug|^Copy(Host)?$"
    # TensorFlow's own, which no exporter writes
    r"|^_"
)
"""Stateless ops that are refused; all others are allowed."""

_SAVER = {"SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"}
"""Every SavedModel holds functions that save and restore its variables; loading reads those without them."""

_VOCABULARY = "InitializeTableFromTextFileV2"
"""Reads a text file: allowed where that is one of the model's assets."""


class ModelError(ValueError):
    """The folder holds no model that can restore, or one that is not to be loaded; the message says why."""


def digest(folder: str) -> str:
    """SHA-256 over names and contents of a SavedModel's files: the same model gives the same, wherever it lies.

    For all files below the folder, sorted by path: the path from the folder with `/` in UTF-8, a zero byte, and the 32
    bytes of the file's own SHA-256.
    """
    total = hashlib.sha256()
    root = pathlib.Path(folder)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        total.update(path.relative_to(root).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def check(folder: str, trusted: bool = False) -> None:
    """Makes sure that a SavedModel is whole, as far as can be seen from outside, and may be loaded.

    Args:
      folder: Local folder.
      trusted: Whatever its graph does is allowed.

    Raises:
      ModelError: It is not, may not, and why.
    """
    graphs = _read(pathlib.Path(folder))
    if trusted:
        return
    for name in _OTHER_GRAPHS:
        if (pathlib.Path(folder) / name).exists():
            raise ModelError(f"{name} stands beside {_GRAPH}, and only the latter is looked at; remove it")
    for graph in graphs:
        if not graph.HasField("object_graph_def"):
            raise ModelError(
                "it was exported by TensorFlow 1, whose graphs restore variables by ops that can read any file;"
                " if you trust where it comes from, add --trust_model"
            )
        _check_assets(pathlib.Path(folder), graph)
    try:
        refused = dict.fromkeys(found for graph in graphs for found in _refused(graph))
    except IndexError:  # a node with fewer inputs than its op takes, an object that is not there
        raise ModelError("its graph does not fit together; export or copy the model again") from None
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise ModelError(
            f"its graph could reach files, other programs or machines: {', '.join(list(refused)[:5])}{more};"
            " if you trust where it comes from, add --trust_model"
        )


def _read(folder: pathlib.Path) -> list[Any]:
    """The model's graphs (`MetaGraphDef`)."""
    path = folder / _GRAPH
    if not path.is_file():
        raise ModelError(f"it is no SavedModel: {_GRAPH} is missing")
    if path.stat().st_size > _LIMIT:
        raise ModelError(f"{_GRAPH} has {path.stat().st_size} bytes, more than any graph; it is something else")
    from tensorflow.core.protobuf import saved_model_pb2  # here, because it takes seconds to load

    try:
        graphs = list(saved_model_pb2.SavedModel.FromString(path.read_bytes()).meta_graphs)
    except (DecodeError, OSError) as error:
        raise ModelError(f"{_GRAPH} is damaged ({error}); export or copy the model again") from error
    if not graphs:
        raise ModelError(f"{_GRAPH} holds no graph; export or copy the model again")
    variables = any(node.HasField("variable") for graph in graphs for node in graph.object_graph_def.nodes)
    if variables and not (folder / "variables" / "variables.index").is_file():
        raise ModelError("variables/variables.index is missing; copy the whole folder")
    return graphs


def _check_assets(folder: pathlib.Path, graph: Any) -> None:
    """Assets are files of the model itself, whatever they are called."""
    assets = (folder / "assets").resolve()
    for asset in graph.asset_file_def:
        path = (assets / asset.filename).resolve()
        if not path.is_relative_to(assets):
            raise ModelError(
                f"its asset {asset.filename!r} lies outside its folder;"
                " if you trust where it comes from, add --trust_model"
            )
        if not path.is_file():
            raise ModelError(f"its asset {asset.filename!r} is missing; copy the whole folder")


def _refused(graph: Any) -> Iterator[str]:
    """Ops of one graph that are not allowed, each with where it stands."""
    library = {function.signature.name: function for function in graph.graph_def.library.function}
    calls = [
        _Call(caller, node, called)
        for caller, function in library.items()
        for node in function.node_def
        for called in _called(node)
        if called in library
    ]
    objects, saver = graph.object_graph_def, graph.saver_def
    assets: dict[tuple[str, str], bool] = {}
    saving = {name.split(":")[0] for name in (saver.save_tensor_name, saver.restore_op_name)}
    outside = [node for node in graph.graph_def.node if node.name not in saving]
    used = _reached(
        [*graph.object_graph_def.concrete_functions, *(n for node in outside for n in _called(node))], calls
    )
    for name in library:
        if _op(name) is not None:
            yield f"a function that calls itself {name}"
    for node in graph.graph_def.node:
        if not _is_allowed(node, library):
            yield f"{node.op} (in the graph itself)"
    for name, function in library.items():
        for node in function.node_def:
            if not (
                _is_allowed(node, library)
                or (name not in used and node.op in _SAVER)
                or (node.op == _VOCABULARY and _is_asset(objects, library, calls, name, node.input[1], assets))
            ):
                yield f"{node.op} (in {name})"


class _Call(NamedTuple):
    """A node inside a function that calls another, or may."""

    caller: str
    node: Any
    called: str


def _is_allowed(node: Any, library: dict[str, Any]) -> bool:
    return node.op in library or _is_harmless(node.op)  # of a call, what is called is looked at, too


def _op(name: str) -> Any:
    """What TensorFlow knows of an op; None if it has none of that name."""
    from tensorflow.python.framework import op_def_registry  # here, because it takes seconds to load

    return op_def_registry.get(name)


@functools.cache
def _is_harmless(name: str) -> bool:
    op = _op(name)
    if op is None:
        return False
    return bool(_STATEFUL.fullmatch(name)) if op.is_stateful else not _STATELESS.search(name)


def _called(node: Any) -> Iterator[str]:
    """Names of the functions that a node calls, or may."""
    yield node.op
    for value in node.attr.values():
        if value.func.name:
            yield value.func.name
        yield from (function.name for function in value.list.func)


def _reached(roots: Iterable[str], calls: list[_Call]) -> set[str]:
    """Functions that may run, from those that are called from outside."""
    by_caller: dict[str, set[str]] = {}
    for call in calls:
        by_caller.setdefault(call.caller, set()).add(call.called)
    reached: set[str] = set()
    left = list(roots)
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += by_caller.get(name, ())
    return reached


def _is_asset(
    objects: Any,
    library: dict[str, Any],
    calls: list[_Call],
    name: str,
    tensor: str,
    known: dict[tuple[str, str], bool],
) -> bool:
    """Whether a tensor inside a function is the path of an asset, whoever calls the function.

    It is if it is an argument that the function captured when it was exported, and that is an asset; or an argument
    for which all who call the function give an asset. (Calls from the graph itself do not count: TensorFlow 2 runs
    functions alone.)
    """
    if (name, tensor) in known:
        return known[name, tensor]
    known[name, tensor] = False  # for functions that call each other in a circle
    arguments = [argument.name for argument in library[name].signature.input_arg]
    if tensor not in arguments:
        return False
    place = arguments.index(tensor)
    callers = [call for call in calls if call.called == name]
    if name in objects.concrete_functions:
        captured = objects.concrete_functions[name].bound_inputs
        behind = place - (len(arguments) - len(captured))
        if behind < 0 or not objects.nodes[captured[behind]].HasField("asset"):
            return False
    elif not callers:
        return False
    known[name, tensor] = all(
        _is_call(call.node, name) and _is_asset(objects, library, calls, call.caller, call.node.input[place], known)
        for call in callers
    )
    return known[name, tensor]


def _is_call(node: Any, name: str) -> bool:
    """Whether a node hands its inputs on to the function as they are."""
    return node.op in (name, "PartitionedCall", "StatefulPartitionedCall")


if __name__ == "__main__":  # looks at models without loading them
    for given in sys.argv[1:]:
        try:
            check(given)
            print(digest(given), given)
        except ModelError as error:
            sys.exit(f"{given}: {error}")
