"""What is unfolded below a bar: pieces that are shown stay as they are, whatever comes and goes beside them."""

from ipywidgets import Widget

from sitq.notebook.unfolding import Unfolding


def shown(unfolding: Unfolding) -> list[str]:
    return [widget.value for widget in unfolding.box.children]


def test_a_new_piece_comes_behind_the_others_and_changes_none() -> None:
    unfolding = Unfolding()
    unfolding.draw({"a": "<details>a</details>"})
    (first,) = unfolding.box.children
    changed: list[object] = []
    first.observe(changed.append)
    unfolding.draw({"b": "<details>b</details>", "a": "<details>a</details>"})
    assert unfolding.box.children[0] is first
    assert shown(unfolding) == ["<details>a</details>", "<details>b</details>"]
    assert changed == []


def test_a_piece_that_is_gone_moves_no_other_and_its_place_is_used_again() -> None:
    unfolding = Unfolding()
    unfolding.draw({"a": "A", "b": "B", "c": "C"})
    before = unfolding.box.children
    unfolding.draw({"b": "B", "c": "C"})
    assert (unfolding.box.children, shown(unfolding)) == (before, ["", "B", "C"])
    unfolding.draw({"b": "B", "c": "C", "d": "D"})
    assert (unfolding.box.children, shown(unfolding)) == (before, ["D", "B", "C"])


def test_a_list_changes_its_title_and_what_it_holds_and_stays_the_same_widget() -> None:
    unfolding = Unfolding()
    unfolding.draw_list("", "")
    assert unfolding.box.children == ()
    unfolding.draw_list("1 finished batch", "a")
    (listed,) = unfolding.box.children
    listed.selected_index = 0  # as a hand does
    unfolding.draw_list("2 finished batches", "b, a")
    assert unfolding.box.children == (listed,)
    assert (listed.titles, listed.children[0].value, listed.selected_index) == (("2 finished batches",), "b, a", 0)


def test_no_widget_is_left_behind() -> None:
    import ipywidgets.widgets.widget as widgets

    before = set(widgets._instances)
    unfolding = Unfolding()
    unfolding.draw({"a": "A", "b": "B"})
    unfolding.draw_list("1 finished batch", "a")
    unfolding.draw({"b": "B"})
    assert {type(widgets._instances[name]).__name__ for name in set(widgets._instances) - before} >= {"VBox", "HTML"}
    unfolding.close()
    left = [widgets._instances[name] for name in set(widgets._instances) - before]
    assert [one for one in left if isinstance(one, Widget) and one.__class__.__name__ in ("VBox", "HTML")] == []
