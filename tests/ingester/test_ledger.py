"""The account of every message."""

from ingester.ledger import OTHER, Account, Ledger


def outcomes(account: Account) -> int:
    return (
        account.stored
        + account.duplicate
        + account.quarantined
        + account.rejected
        + account.dropped
        + account.routed
        + account.in_flight
    )


def test_every_branch_keeps_the_identity():
    """received = the sum of all ends and what is in flight, in total and per device, after every step."""
    ledger = Ledger()
    ends = [
        lambda: ledger.stored({"a": 1}),
        lambda: ledger.duplicate("a"),
        lambda: ledger.quarantined("a", "not_json"),
        lambda: ledger.rejected("a", "not_authorized"),
        lambda: ledger.dropped("a", "intake_full"),
        lambda: ledger.routed("a"),
    ]
    for number, end in enumerate(ends, 1):
        ledger.received("a", number % 3, 10, 5)
        assert ledger.totals.in_flight == ledger.accounts["a"].in_flight == 1
        end()
        assert ledger.totals.in_flight == ledger.accounts["a"].in_flight == 0
        assert outcomes(ledger.totals) == ledger.totals.received == number
        assert outcomes(ledger.accounts["a"]) == ledger.accounts["a"].received == number
    assert ledger.totals.received_by_qos == [2, 2, 2]
    assert (ledger.totals.received_bytes, ledger.accounts["a"].last_seen) == (60, 5)


def test_reasons_sum_up_to_their_kind():
    """A kind's count is the sum of its reasons'."""
    ledger = Ledger()
    ledger.dropped("a", "intake_full", 3)
    ledger.dropped("b", "shutdown")
    assert ledger.totals.dropped == 4 == sum(ledger.totals.dropped_by.values())


def test_accounts_are_bounded():
    """Beyond the bound devices share one account, and nothing is lost from the totals."""
    ledger = Ledger(max_accounts=2)
    for name in ("a", "b", "c", "d", "a"):
        ledger.received(name, 0, 1, 1)
    assert set(ledger.accounts) == {"a", "b", OTHER}
    assert ledger.accounts[OTHER].received == 2
    assert ledger.totals.received == sum(account.received for account in ledger.accounts.values()) == 5


def test_connections():
    """Connections are counted up and down."""
    ledger = Ledger()
    ledger.connected("a", 7)
    ledger.connected("b", 8)
    ledger.disconnected("a")
    assert (ledger.totals.connections, ledger.accounts["a"].connections, ledger.accounts["a"].last_seen) == (1, 0, 7)
