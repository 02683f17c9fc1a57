"""A notice is said once a process, unless the filters ask for more."""

import warnings

import pytest

from regimes.core.notice import notice


def test_a_notice_is_said_once_although_filters_change_in_between():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            notice("test: said once.")
            with warnings.catch_warnings():  # makes Python forget what it has shown
                warnings.simplefilter("ignore")
        notice("test: another.")
    assert [str(one.message) for one in said] == ["test: said once.", "test: another."]


def test_filters_that_ask_for_all_get_all():
    for _ in range(2):
        with pytest.warns(UserWarning, match="test: always"):
            notice("test: always.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="test: always"):
            notice("test: always.")
