"""What to say of labels that are numbers: nobody told what they mean, or they are not counted as the classes are."""

from collections.abc import Collection

from ldlva_dist.packing.classes.class_index import ClassIndex, as_option, whole_number
from ldlva_dist.packing.classes.known_sets import ORDERS

SHOWN = 12


def ask_what_numbers_mean(seen: Collection[int]) -> str:
    """The numbers seen, and the known orders that would fit, each ready to be copied."""
    exact = [order for order in ORDERS if set(order.numbers) == set(seen)]
    fitting = exact or [order for order in ORDERS if set(order.numbers) >= set(seen)]
    asked = (
        f"--classes must say what the numbers mean that are the labels here ({_listed(seen)}): sets number their "
        "classes in different orders"
    )
    if not fitting:
        return f"{asked}; say it as --classes 0=NAME 1=NAME ..."
    lines = [f"  {order.where}: {as_option(order.numbers)}" for order in fitting]
    return "\n".join([f"{asked}. Known orders that would fit:", *lines])


def count_from_one(seen: Collection[int], classes: ClassIndex) -> str | None:
    """What to say where the labels are counted from 1 and the classes from 0; None where they are not."""
    names = classes.class_names
    from_zero = all(classes.find(str(number)) == number for number in range(len(names)))
    if not from_zero or 0 in seen or len(names) not in seen or not all(1 <= n <= len(names) for n in seen):
        return None
    return (
        f"--classes counts its names from 0, but the labels count from 1 (there is a {len(names)} and no 0); "
        f"say {as_option(dict(enumerate(names, 1)))}"
    )


def numbers_among(labels: Collection[str]) -> list[int]:
    """The labels that are numbers, in order."""
    found = {whole_number(label) for label in labels}
    return sorted(number for number in found if number is not None)


def how_read(numbers: Collection[int], classes: ClassIndex) -> str:
    """``0 = Neutral, 1 = Happy, ...`` for those of the numbers that are read as a class."""
    return ", ".join(f"{number} = {classes.numbers[number]}" for number in numbers if number in classes.numbers)


def _listed(seen: Collection[int]) -> str:
    ordered = sorted(seen)
    return ", ".join(map(str, ordered[:SHOWN])) + (", ..." if len(ordered) > SHOWN else "")
