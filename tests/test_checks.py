"The exercise engine on a lesson made here, and every exercise of the notebooks: stubs fail, solutions pass, each has both."
import ast
import contextlib
import io
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from hierlearn import checks as module
from hierlearn.checks import UNFINISHED, Exercises, Hint, expect, expect_close, expect_raises

NBS = Path(__file__).resolve().parent.parent / "nbs"


@pytest.fixture
def lesson():
    "Two exercises: a function and a value."
    lesson = Exercises("99_test")

    @lesson.check_for("double")
    def check_double(answer):
        expect_close(answer(np.array([1.0, 2.0])), [2, 4], "each entry should be twice as large")
        expect_raises(ValueError, answer, None, hint="None should be refused")

    @lesson.check_for("largest")
    def check_largest(answer):
        expect_close(answer, 7, "look at the last row")
        return "right: the corner"

    return lesson


def double(x):
    if x is None: raise ValueError("x is None")
    return 2 * x


def said(capsys): return capsys.readouterr().out.strip()


def test_all_names_are_here():
    assert set(module.__all__) == {"Hint", "expect", "expect_close", "expect_raises", "UNFINISHED", "Exercises"}


def test_right_answers(lesson, capsys):
    assert lesson.check("double", double) is True
    assert said(capsys) == "✓ double: right"
    assert lesson.check("largest", 7) is True
    assert said(capsys) == "✓ largest: right: the corner"
    assert lesson.names == lesson.done == ("double", "largest")
    assert "2 of 2 done" in repr(lesson)


def test_a_later_wrong_answer_is_not_done(lesson, capsys):
    assert lesson.check("largest", 7) and not lesson.check("largest", 8)
    assert lesson.done == () and "· largest" in repr(lesson)


@pytest.mark.parametrize("answer, sentence", [
    (..., f"✗ largest: {UNFINISHED}"),
    (None, f"✗ largest: {UNFINISHED}"),
    ((1, [..., 2]), f"✗ largest: {UNFINISHED}"),
    ({"a": ...}, f"✗ largest: {UNFINISHED}"),
    (8, "✗ largest: look at the last row"),
    (float("nan"), "✗ largest: your result holds NaN. look at the last row"),
    ([7], "✗ largest: the result should be a single number; yours has shape (1,). look at the last row"),
    ("seven", "✗ largest: the result should be a single number, but yours is 'seven'"),
])
def test_wrong_values(lesson, capsys, answer, sentence):
    assert lesson.check("largest", answer) is False
    assert said(capsys) == sentence


def raising(error):
    def function(x): raise error
    return function


@pytest.mark.parametrize("answer, sentence", [
    (lambda x: None, f"<lambda>(ndarray of shape (2,)): {UNFINISHED}"),
    (lambda x: ..., f"<lambda>(ndarray of shape (2,)): {UNFINISHED}"),
    (lambda x: x + ..., "there is still a ... to replace"),
    (lambda x: x + 1, "each entry should be twice as large"),
    (lambda x: np.zeros(3), "the shape (3,) of your result is not the right one"),
    (lambda x: x[:, None] * 2, "the result should be an array with one axis; yours has shape (2, 1)"),
    (lambda x: 2 * x if x is not None else [0, 0], "None should be refused"),
    (lambda x: 2 * x if x is not None else 1 / 0, "<lambda>(None): your code raised ZeroDivisionError: division by zero"),
    (raising(KeyError("axis")), "function(ndarray of shape (2,)): your code raised KeyError: 'axis'"),
    (raising(RuntimeError("first line\nsecond line")), "RuntimeError: first line second line"),
    (raising(OSError()), "your code raised OSError"),
    (raising(ValueError("x" * 500)), "raised ValueError: " + "x" * 147 + "…"),
    (3, "3 is not what is asked for: TypeError: 'int' object is not callable"),
    (lambda x: "x" * 500, "should be an array with one axis, but yours is '" + "x" * 58 + "…"),
    (lambda x: x[0] + 1j, "the result should be an array with one axis, but yours is (1+1j)"),
    (lambda x: [[1], [2, 3]], "but yours is [[1], [2, 3]]"),
    (lambda x: ["2", "4"], "but yours is ['2', '4']"),
    (lambda x: double, "but yours is the function double"),
])
def test_wrong_functions(lesson, capsys, answer, sentence):
    assert lesson.check("double", answer) is False
    text = said(capsys)
    assert sentence in text and text.startswith("✗ double: ") and "\n" not in text and "Traceback" not in text and len(text) < 320


def test_the_wanted_value_is_never_printed(capsys):
    lesson = Exercises("99_test")
    lesson.check_for("secret")(lambda answer: expect_close(answer, 123456.75, "try again"))
    lesson.check_for("asserted")(lambda answer: np.testing.assert_allclose(answer, 123456.75))
    for answer in (1, "a", [1, 2], float("nan"), None): assert not lesson.check("secret", answer)
    assert not lesson.check("asserted", 1)
    assert "123456" not in (text := said(capsys)) and "✗ asserted: not right yet" in text


def test_none_may_be_an_answer(capsys):
    lesson = Exercises("99_test")
    lesson.check_for("nothing", allow_none=True)(lambda answer: expect(answer() is None, "return nothing"))
    assert lesson.check("nothing", lambda: None)


def test_an_interrupt_is_not_swallowed(lesson):
    with pytest.raises(KeyboardInterrupt): lesson.check("double", raising(KeyboardInterrupt()))


def test_a_checker_run_again_replaces_the_first(lesson, capsys):
    lesson.check("largest", 7)
    lesson.check_for("largest")(lambda answer: expect(answer == 8, "no"))
    assert lesson.names == ("double", "largest") and lesson.done == () and lesson.check("largest", 8)


def test_a_long_call_is_shortened_to_the_letter():
    lesson = Exercises("99_test")
    lesson.check_for("long")(lambda answer: answer("y" * 80, [1.5] * 80, size=np.arange(3)))
    with contextlib.redirect_stdout(io.StringIO()) as out: lesson.check("long", lambda text, numbers, size: ...)
    listed = "[" + "1.5, " * 11 + "1.5…"  # sixty characters, the last of them the sign
    listed = listed[:59] + "…"
    assert out.getvalue() == f"✗ long: <lambda>('{'y' * 58}…, {listed}, size=ndarray of shape (3,)): {UNFINISHED}\n"


def test_right_answers_of_other_styles():
    for answer in (7, 7.0, np.int8(7), np.float32(7), np.array(7), Fraction(14, 2), True * 7): expect_close(answer, 7, "no")
    for answer in ([1, 2], (1, 2.0), range(1, 3), np.array([1, 2], "int8"), [Fraction(1), 2]): expect_close(answer, [1, 2], "no")


def test_unknown_names(lesson):
    with pytest.raises(ValueError, match=r"99_test has no exercise 'larges' \(near: largest\); it has double, largest"): lesson.check("larges", 7)
    with pytest.raises(ValueError, match="no exercise 'xyz'; it has double, largest"): lesson.check("xyz", 7)
    for name in (3, ["double"]):
        with pytest.raises(ValueError, match="no exercise .*; it has double"): lesson.check(name, 7)
    with pytest.raises(ValueError, match="has none yet"): Exercises("98_empty").check("a", 1)
    for name in ("Two Words", "", 3, "a--b"):
        with pytest.raises(ValueError, match="is not an exercise name"): lesson.check_for(name)


def test_expectations():
    expect(np.ones(3) > 0, "")
    for bad in (False, [True, False]):
        with pytest.raises(Hint, match="^why$"): expect(bad, "why")
    expect_close(1 + 1e-6, 1, "")
    expect_close([np.nan, 1], [np.nan, 1], "")
    with pytest.raises(Hint, match="^why$"): expect_close(1.001, 1, "why")
    expect_close(1.001, 1, "why", rtol=0.01)
    expect_raises((KeyError, IndexError), [].pop)
    with pytest.raises(Hint, match=r"len\(\[\]\) should raise an error"): expect_raises(ValueError, len, [])


def test_pytorch_tensors_are_compared():
    class Tensor:  # what expect_close asks of one, without the framework
        def detach(self): return self
        def cpu(self): return np.ones(2)
    expect_close(Tensor(), [1, 1], "")


# ---- the notebooks ----
def marked():
    "(notebook, name) -> {'exercise': cells, 'solution': cells}, for each marked cell."
    found = {}
    for path in sorted(NBS.glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(cell["source"])
            for kind, name in re.findall(r"^#\|\s*(exercise|solution):\s*(\S+)\s*$", text, re.M):
                assert cell["cell_type"] == "code", f"{path.name}: {kind} {name} is marked in a text cell"
                found.setdefault((path, name), {"exercise": [], "solution": []})[kind].append(text)
    return found


EXERCISES = marked()
each_exercise = pytest.mark.parametrize("key", EXERCISES, ids=lambda key: f"{key[0].stem}:{key[1]}")


def namespace(path, spoken):
    "What the import cells of a notebook define, and the names of the module it exports; `check` notes its answers in `spoken`."
    names = {}
    texts = ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    for module_name in re.findall(r"^#\|\s*default_exp\s+(\S+)", "\n".join(texts), re.M):
        exec(f"from hierlearn.{module_name} import *", names)
    for text in texts:
        if re.search(r"^#\|\s*eval:\s*false", text, re.M) or re.search(r"^\s*[%!]", text, re.M): continue
        tree = ast.parse(text)
        if tree.body and all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in tree.body): exec(text, names)
    check = names["check"]

    def noting(name, answer):
        spoken.append((name, check(name, answer)))
        return spoken[-1][1]
    return names | {"check": noting}


@each_exercise
def test_each_exercise_has_one_stub_and_one_solution(key):
    cells = EXERCISES[key]
    assert len(cells["exercise"]) == len(cells["solution"]) == 1
    solution = cells["solution"][0]
    assert re.search(r"^#\| code-fold: true$", solution, re.M) and '#| code-summary: "Solution"' in solution, "the solution is not folded"
    assert "..." in cells["exercise"][0], "the stub leaves nothing to fill in"


@each_exercise
def test_the_stub_fails_and_the_solution_passes(key, capsys):
    (path, name), cells = key, EXERCISES[key]
    spoken = []
    names = namespace(path, spoken)
    exec(cells["exercise"][0], names)
    assert spoken and all(called == name and not right for called, right in spoken), f"the stub of {name} gave {spoken}"
    assert "✗" in (text := said(capsys)) and len(text.splitlines()) == len(spoken)
    spoken.clear()
    exec(cells["solution"][0], names)
    assert spoken and all(called == name and right for called, right in spoken), f"the solution of {name} gave {spoken}"


def test_every_checker_has_an_exercise_in_a_notebook():
    "Checkers and exercises of a lesson, whose rooms share the first digit."
    asked, checked = {}, {}
    for path, name in EXERCISES: asked.setdefault(path.name[0], set()).add(name)
    for path in sorted(NBS.glob("[2-7]?_*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        found = re.findall(r"^@exercises\.check_for\(\s*[\"']([^\"']+)", text, re.M)
        if found: checked.setdefault(path.name[0], set()).update(found)
    assert checked and checked == asked
    assert all(len(names) >= 4 for names in checked.values()), "a lesson has at least four exercises"
