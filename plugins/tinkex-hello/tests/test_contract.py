from tinkex.testing import check_distribution


def test_the_entry_points_follow_the_rules() -> None:
    check_distribution("tinkex-hello")
