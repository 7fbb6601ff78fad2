from __future__ import annotations

from app.kafka.lease import GroupLease


def test_a_lease_lasts_a_session_from_when_the_heartbeat_was_sent() -> None:
    now = [100.0]
    lease = GroupLease(6.0, lambda: now[0])
    assert not lease.holds
    sent = lease.begin()
    now[0] = 103.0  # the answer took that long
    lease.renew(sent)
    now[0] = 105.9
    assert lease.holds
    now[0] = 106.0
    assert not lease.holds


def test_an_answer_that_comes_late_does_not_shorten_it() -> None:
    now = [100.0]
    lease = GroupLease(6.0, lambda: now[0])
    first = lease.begin()
    now[0] = 104.0
    lease.renew(lease.begin())
    lease.renew(first)
    now[0] = 109.0
    assert lease.holds
