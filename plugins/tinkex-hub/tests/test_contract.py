from tinkex.testing import check_distribution


def test_the_entry_points_keep_what_tinkex_promises() -> None:
    check_distribution("tinkex-hub")
