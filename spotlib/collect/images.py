"""What an image does to a launch: whether its dead-man's switch runs, how it is billed.  Pure.

It rests on DescribeImages alone.  The names of products are those of the price history, and the
*usage operation* finds the on-demand price.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spotlib.model import AMAZON, AMAZON_LINUX

LINUX = "Linux/UNIX"
RUN_LINUX = "RunInstances"

# The switch is a shell script in the user data, which cloud-init runs.  These publish images with
# cloud-init: Amazon Linux, Canonical, Debian, Red Hat, SUSE.  A name alone proves nothing.
_PUBLISHERS = ("137112412989", "099720109477", "136693071363", "309956199498", "013907871322")
_NEEDS_GRAVITON2 = re.compile(r"al20[2-9]\d-ami-")  # Amazon Linux 2023 and its neighbours
_HOURLY = ("Red Hat", "SUSE")


@dataclass(frozen=True)
class Image:
    """An image as EC2 describes it; ``name`` is "" if it has none."""

    image_id: str
    name: str
    architecture: str
    owner_id: str
    of_amazon: bool
    product: str = LINUX
    operation: str = RUN_LINUX
    sold: bool = False  # by somebody on AWS Marketplace

    @property
    def owner(self) -> str:
        """``amazon``, or the account that owns it."""
        return AMAZON if self.of_amazon else self.owner_id

    @property
    def by_the_hour(self) -> bool:
        """Whether each started hour is billed in full."""
        return self.product.startswith(_HOURLY)

    def runs_switch(self, instance_type: str) -> bool | None:
        """Whether the dead-man's switch runs on an instance of this type; None if not known."""
        if any(self._obstacles(instance_type)):
            return False
        of_amazon = self.of_amazon and bool(AMAZON_LINUX.match(self.name))
        return True if of_amazon or self.owner_id in _PUBLISHERS else None

    def objections(self, instance_type: str) -> list[str]:
        """Return why it is launched only if it is accepted expressly, one phrase per reason."""
        no_switch = "so no switch in it turns an instance off, and the cost has no hard bound"
        found = [f"{each}, {no_switch}" for each in self._obstacles(instance_type)]
        if (self.product, self.operation) != (LINUX, RUN_LINUX):
            hourly = ", each started hour in full" * self.by_the_hour
            found.append(f"it is billed as {self.product} ({self.operation}){hourly}")
        if self.sold:
            found.append("its seller charges for it, and how much is not known")
        return found

    def _obstacles(self, instance_type: str) -> Iterator[str]:
        if self.product.startswith("Windows"):
            yield "Windows does not run the script in the user data"
        if self.name.startswith("bottlerocket"):
            yield "Bottlerocket does not run the script in the user data"
        if instance_type.startswith("a1.") and _NEEDS_GRAVITON2.match(self.name):
            yield "it does not boot on a1.* (first-generation Graviton)"


def image_of(item: Mapping[str, Any]) -> Image:
    """Return the image that DescribeImages shows."""
    windows = item.get("Platform", "").lower() == "windows"
    return Image(
        image_id=item["ImageId"],
        name=item.get("Name", ""),
        architecture=item["Architecture"],
        owner_id=item.get("OwnerId", ""),
        of_amazon=item.get("ImageOwnerAlias") == AMAZON,
        product=item.get("PlatformDetails") or ("Windows" if windows else LINUX),
        operation=item.get("UsageOperation") or ("RunInstances:0002" if windows else RUN_LINUX),
        sold=any(e.get("ProductCodeType") == "marketplace" for e in item.get("ProductCodes", [])),
    )
