"""Thousands of requests that nobody meant, made from a server's own OpenAPI document: what does it answer that it did not promise?

    python -m bench.fuzz --url http://127.0.0.1:8080 --requests 5000        # of a server that is up with access.writing=open

Two ways, half of the requests each: every operation by itself, with values in and out of its schema, and chains of operations in which
an answer's ids and cursors go into the next request (Schemathesis' state machine over the document's links). A finding is an answer of 5xx
(503 from a part that is away, too), a status, a header or a shape that the document does not name, or an invalid request that was taken.
"""

import argparse
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from schemathesis.checks import CHECKS, load_all_checks

OUT = Path("bench/results/fuzz.json")
WITHOUT = ("positive_data_acceptance",)  # ids that are in no catalogue are valid data, and rightly a 404


@dataclass
class Told:
    """What was asked and answered, by operation and status, and what was found."""

    counts: Counter = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """How many were made."""
        return sum(self.counts.values())


def fuzz(schema: schemathesis.BaseSchema, *, requests: int, seed: int = 1) -> Told:
    """Ask until at least `requests` were answered, or a round added none."""
    told = Told()
    load_all_checks()
    checks = [check for check in CHECKS.get_all() if check.__name__ not in WITHOUT]

    def judge(case, response) -> None:
        told.counts[f"{case.operation.label} {response.status_code}"] += 1
        try:
            case.validate_response(response, checks=checks)
        except AssertionError as error:
            told.findings.setdefault(f"{case.operation.label}: {type(error).__name__}", str(error))
        except BaseExceptionGroup as errors:
            for error in errors.exceptions:
                told.findings.setdefault(f"{case.operation.label}: {type(error).__name__}", str(error))

    relaxed = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "phases": [Phase.generate]}
    operations = [result.ok() for result in schema.get_all_operations()]
    each = max(20, requests // 2 // len(operations))
    for operation in operations:

        @hypothesis.seed(seed)
        @hypothesis.settings(max_examples=each, **relaxed)
        @hypothesis.given(case=operation.as_strategy())
        def alone(case) -> None:
            judge(case, case.call())

        alone()
    if told.requests >= requests:
        return told
    machine = schema.as_state_machine()

    class Chain(machine):
        def validate_response(self, response, case, **_) -> None:
            judge(case, response)

    number = 0
    while told.requests < requests:
        before, number = told.requests, number + 1
        settings = hypothesis.settings(max_examples=20, stateful_step_count=12, **relaxed)
        hypothesis.seed(seed + number)(Chain.TestCase)
        Chain.run(settings=settings)
        if told.requests == before:
            break
    return told


def main() -> None:
    """Fuzz a server that is up, print what it answered, and end with 1 where anything was found."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--url", default="http://127.0.0.1:8080")
    asked.add_argument("--requests", type=int, default=5_000)
    asked.add_argument("--seed", type=int, default=1)
    chosen = asked.parse_args()
    start = time.monotonic()
    told = fuzz(schemathesis.openapi.from_url(f"{chosen.url}/openapi.json"), requests=chosen.requests, seed=chosen.seed)
    for what, count in sorted(told.counts.items()):
        print(f"{count:>7,}  {what}")
    print(f"{told.requests:,} requests in {time.monotonic() - start:.0f} s, {len(told.findings)} findings")
    for what, why in told.findings.items():
        print(f"\n{what}\n{why}")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps({"requests": told.requests, "seed": chosen.seed, "counts": told.counts, "findings": told.findings}, indent=1))
    sys.exit(bool(told.findings))


if __name__ == "__main__":
    main()
