"""The ledger survives whoever writes it; the best and the Pareto front."""

from pathlib import Path

from pipelines.sweeps.records import Ledger, Proposal, Record, best, pareto_front


def record(number: int, **values: float) -> Record:
    return Record(Proposal(number, f"trial {number}", {"weights.a": 1.5}), "finished", values, probes=[(4, 0.25)])


def test_a_ledger_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.propose(Proposal(0, "published", {}), "run-0")
    ledger.propose(Proposal(1, "trial", {"weights.a": 1.5}, until=4, after=0, since=2), "run-1")
    ledger.end(record(0, linear=0.5))
    again = Ledger(tmp_path / "trials.jsonl")
    assert again.proposals == ledger.proposals and again.runs == {0: "run-0", 1: "run-1"}
    assert again.ended() == [record(0, linear=0.5)]


def test_half_a_line_does_not_count_and_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / "trials.jsonl"
    Ledger(path).end(record(0, linear=0.5))
    whole = path.read_bytes()
    for cut in range(1, len(whole)):
        path.write_bytes(whole + whole[:cut])
        ledger = Ledger(path)
        ledger.end(record(1, linear=0.25))
        assert Ledger(path).records == {0: record(0, linear=0.5), 1: record(1, linear=0.25)}


def test_what_failed_is_tried_again(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.jsonl")
    ledger.propose(Proposal(0, "trial", {}), "run")
    ledger.end(Record(Proposal(0, "trial", {}), "failed", {}))
    assert ledger.records and not Ledger(tmp_path / "trials.jsonl").records


def test_the_best_of_equals_is_the_first() -> None:
    records = [record(0, a=1.0), record(1, a=3.0), record(2, a=3.0), Record(Proposal(3, "t", {}), "stopped", {})]
    assert best(records, "a", 1.0) == records[1]
    assert best(records, "a", -1.0) == records[0]
    assert best([], "a", 1.0) is None and best(records, "b", 1.0) is None


def test_the_pareto_front() -> None:
    records = [record(0, a=1.0, c=1.0), record(1, a=3.0, c=5.0), record(2, a=2.0, c=6.0), record(3, a=3.0, c=5.0)]
    signs = {"a": 1.0, "c": -1.0}
    assert [r.number for r in pareto_front(records, signs)] == [1, 3, 0]  # 2 costs more than 1 and is worth less
