"""Predictions as the official SWE-bench harness reads them, and reports in its schema.

A prediction is `instance_id`, `model_name_or_path` and `model_patch`, a unified diff; one whose patch is
empty or null is submitted and not run. Reports follow swebench 5.0 (harness/grading.py, reporting.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparring.errors import UserError, kind_of

from .resolution import Tally, Verdict
from .rows import json_rows, no_twins

SCHEMA_VERSION = 2
FIELDS = ("instance_id", "model_name_or_path", "model_patch")


@dataclass(frozen=True)
class Prediction:
    """A patch for an instance.

    Raises:
        UserError: a model's name that makes no folder name, or a patch that JSON text cannot hold.
    """

    instance_id: str
    model_name_or_path: str
    model_patch: str | None

    def __post_init__(self) -> None:
        name = self.model_name_or_path
        if not name.strip() or not name.isprintable() or name.startswith("."):
            raise UserError(f"prediction for `{self.instance_id}`: `{name}` is no name for a model")
        try:
            (self.model_patch or "").encode()
        except UnicodeEncodeError:
            raise UserError(
                f"prediction for `{self.instance_id}`: the patch is not UTF-8 text, and predictions can hold "
                "no other; make it with the file marked as binary"
            ) from None

    @property
    def empty(self) -> bool:
        """Nothing to run: the official harness counts such a patch apart, as it does `null`."""
        return not self.model_patch


def save_predictions(path: str | Path, predictions: Iterable[Prediction]) -> int:
    """Write a JSON Lines file that the official harness reads in any locale; how many there are.

    Raises:
        UserError: two predictions for one instance, a name that ends in neither `.jsonl` nor `.json` (the
            harness goes by it), or a file that cannot be written.
    """
    path = Path(path)
    rows = list(predictions)
    if path.suffix not in (".jsonl", ".json"):
        raise UserError(f"predictions `{path}`: the name must end in .jsonl or .json")
    no_twins(((str(place), row.instance_id) for place, row in enumerate(rows, 1)), f"predictions `{path}`")
    try:
        if path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
        else:
            path.write_text(json.dumps({row.instance_id: asdict(row) for row in rows}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"predictions `{path}` cannot be written: {error.strerror or error}") from None
    return len(rows)


def load_predictions(path: str | Path) -> dict[str, Prediction]:
    """Predictions by instance, from JSON Lines, a JSON list or a JSON map of instance to prediction.

    Raises:
        UserError: the file or one of its rows is wrong, or an instance comes twice (the official loader
            would quietly take the last).
    """
    found: dict[str, Prediction] = {}
    places: list[tuple[str, str]] = []
    for where, row in json_rows(Path(path), "predictions"):
        for name in FIELDS:
            if name not in row:
                raise UserError(f"{where}: field `{name}` is missing")
            if not isinstance(row[name], str) and not (name == "model_patch" and row[name] is None):
                raise UserError(f"{where}: `{name}` must be text, not {kind_of(row[name])}")
        try:
            made = Prediction(*(row[name] for name in FIELDS))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        found[made.instance_id] = made
        places.append((where, made.instance_id))
    no_twins(places, f"predictions `{path}`")
    return found


@dataclass(frozen=True)
class Evaluation:
    """What became of one prediction that was run.

    Attributes:
        verdict: None where the evaluation itself broke down, which leaves no report.
        infra: the environment's fault, in a word (`out_of_memory`); None if there is none.
        ambiguous: `infra` may as well be the patch's fault.
    """

    verdict: Verdict | None
    infra: str | None = None
    ambiguous: bool = False


def instance_report(prediction: Prediction, evaluation: Evaluation | None = None) -> dict[str, Any]:
    """The content of an instance's `report.json`: a map of the instance to its report.

    Args:
        evaluation: may be left out for a prediction without a patch.
    """
    verdict = evaluation.verdict if evaluation else None
    report: dict[str, Any] = {
        "patch_is_None": prediction.model_patch is None,
        "patch_exists": prediction.model_patch is not None,
        "patch_successfully_applied": verdict is not None and verdict.found,
        "resolved": verdict is not None and verdict.resolved,
        "infra_failure": False,
    }
    if evaluation and evaluation.infra and not (verdict and verdict.found):
        report["infra_failure"] = not evaluation.ambiguous
        report["infra_failure_reason"] = evaluation.infra
    if verdict is not None and verdict.found:
        lists = {"FAIL_TO_PASS": verdict.fail_to_pass, "PASS_TO_PASS": verdict.pass_to_pass}
        lists |= {"FAIL_TO_FAIL": Tally(), "PASS_TO_FAIL": Tally()}
        report["tests_status"] = {
            name: {"success": list(tally.success), "failure": list(tally.failure)}
            for name, tally in lists.items()
        }
    return {prediction.instance_id: report}


def run_report(
    instances: Sequence[str], predictions: Mapping[str, Prediction], evaluations: Mapping[str, Evaluation]
) -> dict[str, Any]:
    """The summary of a run, schema version 2.

    Args:
        instances: the ids of the data set; those without a prediction are incomplete.
        predictions: by instance, as submitted, also those that are not in the data set.
        evaluations: by instance; a prediction with a patch and no evaluation is an error.
    """
    groups: dict[str, set[str]] = {name: set() for name in GROUPS}
    reasons: dict[str, str] = {}
    groups["submitted"] = set(predictions)
    for name in instances:
        if name not in predictions:
            groups["incomplete"].add(name)
        elif predictions[name].empty:
            groups["empty_patch"].add(name)
        else:
            evaluation = evaluations.get(name, Evaluation(None))
            _place(name, evaluation, groups)
            if evaluation.infra and name not in groups["resolved"]:
                reasons[name] = evaluation.infra
                groups["ambiguous_failure" if evaluation.ambiguous else "infra_failure"].add(name)
    counts = {f"{name}_instances": len(groups[name]) for name in GROUPS if name != "incomplete"}
    ids = {f"{name}_ids": sorted(groups[name]) for name in GROUPS}
    return {
        "total_instances": len(instances),
        **counts,
        **ids,
        "failure_reasons": dict(sorted(reasons.items())),
        "schema_version": SCHEMA_VERSION,
    }


GROUPS = (
    "submitted",
    "completed",
    "resolved",
    "unresolved",
    "infra_failure",
    "ambiguous_failure",
    "empty_patch",
    "error",
    "incomplete",
)


def _place(name: str, evaluation: Evaluation, groups: Mapping[str, set[str]]) -> None:
    if evaluation.verdict is None:
        groups["error"].add(name)
        return
    groups["completed"].add(name)
    groups["resolved" if evaluation.verdict.resolved else "unresolved"].add(name)


def report_name(model: str, run: str) -> str:
    """The name that the official harness gives a run's summary."""
    return f"{model.replace('/', '__')}.{run}.json"


def gold_predictions(patches: Mapping[str, str]) -> list[Prediction]:
    """What the harness grades as `--predictions_path gold`: each instance's own patch."""
    return [Prediction(name, "gold", patch) for name, patch in patches.items()]
