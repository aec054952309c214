"""Arithmetic as it is done on paper, digit characters in columns: the oracle for the data sets."""

PLACES = ("ones", "tens", "hundreds", "thousands", "ten-thousands", "hundred-thousands", "millions", "ten-millions")


def on_paper(a, operator, b):
    """Columns of a worked sum or difference from the ones up, and the answer's digits.

    A column is (upper digit, lower digit, comes in, written digit, goes out). A difference has the smaller number
    below the larger one, as a pupil writes it.
    """
    top, bottom = str(a), str(b)
    if operator == "-" and (len(top), top) < (len(bottom), bottom):
        top, bottom = bottom, top
    width = max(len(top), len(bottom))
    top, bottom = top.rjust(width, "0"), bottom.rjust(width, "0")
    found, carry = [], 0
    for upper, lower in zip(reversed(top), reversed(bottom), strict=True):
        x, y = int(upper), int(lower)
        if operator == "+":
            total = x + y + carry
            written, out = str(total)[-1], int(len(str(total)) == 2)
        else:
            out = int(x < y + carry)
            written = str(x - y - carry + (10 if out else 0))
        found.append((x, y, carry, int(written), out))
        carry = out
    digits = "".join(str(column[3]) for column in reversed(found))
    return found, ("1" if carry else "") + digits if operator == "+" else (digits.lstrip("0") or "0")


def product_carries(a, b):
    """What each column of a long multiplication hands on: all partial products up to there, cut off above it."""
    x, y = str(a)[::-1], str(b)[::-1]
    found = []
    for column in range(len(x) + len(y) - 1):
        below = sum(
            int(p) * int(q) * 10 ** (i + j) for i, p in enumerate(x) for j, q in enumerate(y) if i + j <= column
        )
        found.append(below // 10 ** (column + 1))
    return found


def carries(a, operator, b):
    """What goes out of every column."""
    return product_carries(a, b) if operator == "*" else [column[4] for column in on_paper(a, operator, b)[0]]


def answer(a, operator, b):
    """The answer as it is written."""
    if operator == "*":
        return str(sum(int(d) * a * 10**i for i, d in enumerate(reversed(str(b)))))
    digits = on_paper(a, operator, b)[1]
    return f"-{digits}" if operator == "-" and a < b else digits


def subtasks(a, operator, b):
    """Quirke & Barez' sub-tasks by column from the ones up (arXiv 2310.13121, section 3), from their definitions.

    They are functions of the digits alone: make-carry and make-nine look at one column, use-carry at the column
    below, use-nine at the chain of nines below. A difference is read the same way with the borrow for the carry; a
    column of equal digits then hands it on.
    """
    pairs = [(x, y) for x, y, *_ in on_paper(a, operator, b)[0]]
    make = [x + y > 9 if operator == "+" else x < y for x, y in pairs]
    nine = [x + y == 9 if operator == "+" else x == y for x, y in pairs]
    columns = len(answer(a, operator, b)) if operator == "+" else len(pairs)
    use_carry, use_nine = [], []
    for i in range(columns):
        use_carry.append(i > 0 and make[i - 1])
        use_nine.append(i > 0 and nine[i - 1] and (use_carry[i - 1] or use_nine[i - 1]))
    beyond = [False] * (columns - len(pairs))
    return {
        "base-add": [not (c or n) for c, n in zip(use_carry, use_nine, strict=True)],
        "make-carry": make + beyond,
        "make-nine": nine + beyond,
        "use-carry": use_carry,
        "use-nine": use_nine,
    }


def cascade(a, operator, b):
    """Through how many neighbouring columns a carry or borrow is handed on."""
    if operator == "*":
        return 0
    handed = "".join(
        "x" if came and (x + y == 9 if operator == "+" else x == y) else " "
        for x, y, came, _, _ in on_paper(a, operator, b)[0]
    )
    return max(map(len, handed.split()), default=0)


def steps(a, b):
    """Worked steps of an addition: every column's total as two digits."""
    return "".join(f"{x + y + came:02d};" for x, y, came, _, _ in on_paper(a, "+", b)[0])


def written(a, operator, b, with_steps=False):
    """The whole line: question, steps, answer."""
    return f"{a}{operator}{b}={steps(a, b) if with_steps else ''}{answer(a, operator, b)}"
