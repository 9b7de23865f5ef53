"""Every night at 22:00: launch the Flex Template, wait for the job. Loaded by Airflow 3.3 (`.ci/airflow`).

Needs apache-airflow-providers-google and apache-airflow-providers-apache-beam, which Cloud Composer has.

Put it into the DAGs' folder together with `launch.json`, which Cloud Scheduler takes as well (docs/dataflow.md).

A try that failed is simply made again: a job does what is missing in its output and nothing else. That the name of the
job stays the same is on purpose: Dataflow refuses a second one of a name while the first still runs.
"""

from __future__ import annotations

import datetime
import json
import pathlib

from airflow import DAG
from airflow.providers.google.cloud.operators.dataflow import DataflowStartFlexTemplateOperator

PROJECT, REGION = "PROJECT", "REGION"

with DAG(
    "unfade_nightly",
    schedule="0 22 * * *",
    start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": datetime.timedelta(minutes=15)},
) as dag:
    DataflowStartFlexTemplateOperator(
        task_id="restore",
        project_id=PROJECT,
        location=REGION,
        body=json.loads(pathlib.Path(__file__).with_name("launch.json").read_text()),
        append_job_name=False,
        deferrable=True,  # no slot is taken while the job runs
        execution_timeout=datetime.timedelta(hours=20),
    )
