"""Where a plan keeps the values between its first and last step."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from kafnets.fused.native.steps import NativeStep, ValueShape

GROUP_FLOATS = 16 << 20  # at most, for the values that are kept for a whole group of images


@dataclass
class Memory:
    """Places in scratch memory of the values that no tensor holds.

    Attributes:
        group: how many images go through all steps before the next images start.
        places: per value: its offset in floats, and whether it is kept for the whole group.
        size: of the scratch memory, in floats.
    """

    group: int
    places: list[tuple[int, bool]]
    size: int

    @classmethod
    def of(cls, shapes: Sequence[ValueShape], steps: Sequence[NativeStep]) -> "Memory":
        """Assign the places.

        Neighbouring steps that process equally many images at a time form a stretch. A value that one stretch writes
        and another reads is kept for the whole group, in a place of its own. All other values take places that are
        reused after the last step that reads them. The second of two joined steps may write where the skip of the
        first lies, because each pixel is read before it is overwritten.
        """
        at_a_time = [shapes[step.target].images_at_a_time for step in steps]
        stretches = list(accumulate((now != before for before, now in pairwise(at_a_time)), initial=0))
        first, last = dict[int, int](), dict[int, int]()
        for at, step in enumerate(steps):
            for value in step.values:
                first.setdefault(value, at)
                last[value] = at
        loose = [value for value in first if not shapes[value].held]
        whole = {value for value in loose if stretches[first[value]] != stretches[last[value]]}
        group = min(max(at_a_time), GROUP_FLOATS // max(sum(shapes[value].floats for value in whole), 1))
        group, sizes, free = max(group, 1), list[int](), list[int]()
        slots = dict[int, int]()
        for at, step in enumerate(steps):
            value = step.target
            if value in loose and value not in slots:
                if value in whole or not free:
                    free.append(len(sizes))
                    sizes.append(0)
                slots[value] = free.pop()
                images = group if value in whole else min(group, at_a_time[at])
                sizes[slots[value]] = max(sizes[slots[value]], shapes[value].floats * images)
            free += [slots[v] for v in step.values if v in slots and v not in whole and last[v] == at]
        offsets = list(accumulate(sizes, initial=0))
        places = [(offsets[slots[value]] if value in slots else 0, value in whole) for value in range(len(shapes))]
        return cls(group, places, offsets[-1])
