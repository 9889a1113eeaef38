"""Every transition is in exactly one state, also when a worker dies with what it had not delivered."""

import json

import pytest

from distrl.core.accounting import Accounts, Ledger


def test_what_a_live_worker_has_not_delivered_is_queued_and_what_a_dead_one_has_not_is_rejected():
    ledger = Ledger()
    ledger.secured.update({0: 100, 1: 40})
    accounts = ledger.balance(produced={0: 110, 1: 45}, live={0}, unsampled=30, evicted=7)
    accounts.check()
    assert accounts == Accounts(produced=155, trained=103, queued=40, evicted=7, rejected={"worker_died": 5})


def test_a_wrong_sum_is_noticed():
    with pytest.raises(AssertionError, match="1 transitions are in no state"):
        Accounts(produced=10, trained=5, queued=4, evicted=0, rejected={}).check()


def test_a_ledger_survives_json():
    ledger = Ledger(duplicates=3)
    ledger.secured.update({12: 100})
    again = Ledger.from_state(json.loads(json.dumps(ledger.state())))
    assert again == ledger
