"""The guests of instances: when their kernel starts, what their clocks say, when they run scripts.

``Guests()`` are usual ones; its settings make them unusual.  Their draws have names of their own,
so nothing else in a world depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import copysign, exp, inf
from uuid import UUID

from spotlib.sandbox.account import Instance
from spotlib.sandbox.chance import digest, normals, uniforms
from spotlib.sandbox.numbers import Numbers

# chrony's makestep and maxslewrate: a smaller error is not stepped, but made up for at this rate.
_STEP_S = 1.0
_SLEW = 1 / 12


@dataclass(frozen=True, kw_only=True)
class Guests:
    """In what all guests of a world differ from usual ones."""

    clock_off_s: float | None = field(default=None, repr=False)  # clock error until synchronised
    synchronised_s: float | None = field(default=None, repr=False)  # since the kernel's start
    silent_share: float = field(default=0.0, repr=False)  # instances without any console output
    without_cloud_init: tuple[str, ...] = field(default=(), repr=False)  # image ids
    metadata: bool = field(default=True, repr=False)  # whether the metadata service answers
    chatter_per_s: float = field(default=0.0, repr=False)  # lines that services go on writing

    def __post_init__(self) -> None:
        """Refuse values that no guest could have."""
        if not 0 <= self.silent_share <= 1:
            raise ValueError(f"need 0 <= silent_share <= 1, got {self.silent_share!r}")
        if not 0 <= self.chatter_per_s < inf:
            raise ValueError(f"need 0 <= chatter_per_s < inf, got {self.chatter_per_s!r}")
        if self.clock_off_s is not None and not -inf < self.clock_off_s < inf:
            raise ValueError(f"need a finite clock_off_s or None, got {self.clock_off_s!r}")
        if self.synchronised_s is not None and not self.synchronised_s >= 0:
            raise ValueError(f"need synchronised_s >= 0 or None, got {self.synchronised_s!r}")


@dataclass(frozen=True, kw_only=True)
class Guest:
    """One guest; its times are seconds since the world began."""

    boot_id: str
    kernel_s: float
    user_data_s: float  # when cloud-init begins to run the user data
    line_s: float  # when the user data write to the console
    prompt_s: float  # when it asks to log in
    synchronised_s: float
    clock_off_s: float  # until then
    clock_error_s: float  # once it is right
    lag_s: float  # from a line to when Latest shows it
    post_after_s: float  # from running to the post after the boot
    end_post_after_s: float  # from the end to the last post
    silent: bool

    def clock_s(self, at_s: float) -> float:
        """What its clock says at a moment of the world: chrony steps it, or slows or speeds it."""
        off_s, since_s = self.clock_off_s, at_s - self.synchronised_s
        if since_s < 0.0:
            return at_s + off_s
        left_s = max(0.0, abs(off_s) - _SLEW * since_s) if abs(off_s) < _STEP_S else 0.0
        return at_s + copysign(left_s, off_s) + self.clock_error_s


def guest_of(instance: Instance, numbers: Numbers, guests: Guests) -> Guest | None:
    """The guest of an instance; None before it runs."""
    running_s = next((at_s for at_s, state in instance.path if state == "running"), None)
    if running_s is None:
        return None
    name = (instance.request.name, instance.request.index, "guest")
    boot, kernel, script, synchronised, off, error, lag = map(float, normals(7, *name))
    post, end_post, prompt, silent = map(float, uniforms(4, *name, "console"))
    user_data_s = running_s + numbers.guest_boot_s * exp(numbers.guest_boot_sigma * boot)
    kernel_s = running_s + numbers.kernel_spread_s * kernel
    kernel_s = max(instance.launched_s, min(kernel_s, user_data_s))
    after_s = guests.synchronised_s
    if after_s is None:
        median_s, sigma = numbers.synchronised_median_s, numbers.synchronised_sigma
        after_s = median_s * exp(sigma * synchronised)
    off_s = guests.clock_off_s
    least_s, most_s = numbers.console_post_least_s, numbers.console_post_most_s
    return Guest(
        boot_id=str(UUID(bytes=digest(16, *name, "boot id"), version=4)),
        kernel_s=kernel_s,
        user_data_s=user_data_s,
        line_s=user_data_s + numbers.script_median_s * exp(numbers.script_sigma * script),
        prompt_s=kernel_s + (user_data_s - kernel_s) * (0.9 + 0.2 * prompt),
        synchronised_s=kernel_s + after_s,
        clock_off_s=numbers.clock_off_s * off if off_s is None else off_s,
        clock_error_s=numbers.clock_error_s * error,
        lag_s=numbers.console_lag_median_s * exp(numbers.console_lag_sigma * lag),
        post_after_s=least_s * (most_s / least_s) ** post,
        end_post_after_s=numbers.console_end_most_s * end_post,
        silent=silent < guests.silent_share,
    )
