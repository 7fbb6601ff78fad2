"""The soak's own parts: what it takes for true, and that a seed gives the same faults and changes again."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from itertools import islice

import orjson
import pytest

from bench.soak_auditor import judged
from bench.soak_faults import FAULTS, fault_plan
from bench.soak_links import Links
from bench.soak_load import Garbage, Workload, id_of, number_of
from bench.soak_model import Change, Model, State, fold
from schemas.document_change import decode_change
from schemas.errors import InvalidChange


def upsert(version: int | None = None, rev: int = 1) -> Change:
    return Change("doc", f"text {rev}", None, {"rev": rev}, version)


def folded(*changes: Change) -> State:
    state = None
    for offset, change in enumerate(changes):
        state = fold(state, change, offset)
    assert state is not None
    return state


GONE = Change("doc", None, bare=True)


def test_the_last_change_counts() -> None:
    assert folded(upsert(rev=1), upsert(rev=2)).rev == 2
    assert folded(upsert(), GONE).change is None
    assert folded(upsert(), GONE, upsert(rev=2)).rev == 2


def test_an_older_version_does_not_count_and_the_same_one_does() -> None:
    assert folded(upsert(7, rev=1), upsert(6, rev=2)).rev == 1
    assert folded(upsert(7, rev=1), upsert(7, rev=2)).rev == 2


def test_a_version_once_seen_stays_through_a_delete_without_one() -> None:
    assert folded(upsert(7), GONE, upsert(6)).change is None
    assert folded(upsert(7, rev=1), GONE, upsert(8, rev=2)).rev == 2
    assert folded(upsert(7, rev=1), upsert(None, rev=2)) == State(upsert(None, rev=2), 7, 1)


def test_a_document_is_settled_only_while_nothing_of_it_is_under_way() -> None:
    model, change = Model(), upsert()
    model.issue(change)
    assert model.view("doc") is None
    model.settle(change, (0, 5))
    view = model.view("doc")
    assert view is not None
    assert (view.settled, view.offset, view.state.rev) == (True, 5, 1)

    model.issue(change)
    assert not model.view("doc").settled  # type: ignore[union-attr]
    model.settle(change, None)

    assert not model.view("doc").settled  # type: ignore[union-attr]
    assert model.unconfirmed == 1


def test_a_seed_gives_the_same_faults_again_and_begins_with_one_of_each_kind() -> None:
    plan = list(islice(fault_plan(3, 4.0), 50))

    assert plan == list(islice(fault_plan(3, 4.0), 50))
    assert plan != list(islice(fault_plan(4, 4.0), 50))
    assert sorted(fault.kind for fault in plan[: len(FAULTS)]) == sorted(FAULTS)


def test_a_seed_gives_the_same_changes_again() -> None:
    assert list(islice(Workload(3, 50), 300)) == list(islice(Workload(3, 50), 300))
    assert list(islice(Workload(3, 50), 300)) != list(islice(Workload(4, 50), 300))


def test_what_the_workload_calls_garbage_is_refused_and_the_rest_is_not() -> None:
    items = [item for step in islice(Workload(3, 200), 3000) for item in step]
    garbage = [item for item in items if isinstance(item, Garbage)]
    changes = [item for item in items if isinstance(item, Change)]

    assert len({item.value for item in garbage}) == 5
    for item in garbage:
        with pytest.raises(InvalidChange):
            decode_change(item.key, item.value)
    assert {change.text is None for change in changes} == {True, False}
    assert any(change.version is not None for change in changes)
    assert len({change.id for change in changes}) == 200


def test_still_documents_are_never_changed_again() -> None:
    items = [item for step in islice(Workload(3, 50), 3000) for item in step]
    still = [item.id for item in items if isinstance(item, Change) and number_of(item.id) % 10 < 2]

    assert len(still) == len(set(still)) == 10


def test_every_id_says_its_number() -> None:
    assert [number_of(id_of(number)) for number in range(300)] == list(range(300))


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    try:
                        while data := client.recv(100):
                            client.sendall(data)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


def test_a_silent_cut_holds_everything_up_until_it_is_mended(echo_port: int) -> None:
    with Links() as links:
        link = links.add(echo_port)
        with socket.create_connection(("127.0.0.1", link.port), 5) as client:
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            link.cut(silent=True)
            client.sendall(b"two")
            client.settimeout(0.2)
            with pytest.raises(TimeoutError):
                client.recv(10)

            link.mend()

            client.settimeout(5)
            assert client.recv(10) == b"two"


def test_a_loud_cut_resets_connections_and_refuses_new_ones_until_it_is_mended(echo_port: int) -> None:
    with Links() as links:
        link = links.add(echo_port)
        with socket.create_connection(("127.0.0.1", link.port), 5) as client:
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            link.cut(silent=False)
            assert _ended(client)
        with socket.create_connection(("127.0.0.1", link.port), 5) as client:
            assert _ended(client)

        link.mend()

        with socket.create_connection(("127.0.0.1", link.port), 5) as client:
            client.sendall(b"two")
            assert client.recv(10) == b"two"


def _ended(client: socket.socket) -> bool:
    try:
        return client.recv(10) == b""
    except ConnectionError:
        return True


def report(status: str, *counts: str, problems: tuple[str, ...] = ()) -> bytes:
    return orjson.dumps({"status": status, "counts": counts, "problems": problems, "examples": []})


def test_an_audit_is_clean_drift_or_ended_by_a_fault_and_anything_else_is_a_failure_of_its_own() -> None:
    assert judged(0, report("clean"), "").clean
    assert list(judged(1, report("drift", "missing"), "").wrong) == ["drift"]
    away = judged(2, report("incomplete", problems=("shard 1 is behind",)), "")
    assert (away.clean, away.incomplete, away.wrong) == (False, "shard 1 is behind", {})
    assert judged(2, b"", "headrace: no Kafka\n").incomplete == "headrace: no Kafka"
    assert list(judged(2, report("incomplete", "ghost", problems=("shard 1",)), "").wrong) == ["drift"]
    assert list(judged(1, b"", "Traceback\nKeyError: 3\n").wrong) == ["failed"]
    assert list(judged(0, b"", "").wrong) == ["failed"]
