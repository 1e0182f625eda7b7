"""What EC2 lists of ours in every region: what carries our tag, or that of one batch."""

from collections.abc import Iterable, Mapping

from spotlib.cleanup.unfinished import Unfinished
from spotlib.ec2.calls import ask_near
from spotlib.ec2.connection import Connection, new_executor
from spotlib.ec2.events import EVENTS
from spotlib.ec2.patience import Patient
from spotlib.ec2.places import home_region
from spotlib.ec2.refusals import Refusal
from spotlib.ec2.resource import Ours
from spotlib.ec2.survey import RESOURCES
from spotlib.model import Kind


class Search:
    """Looks in the regions of the logs, and in ``regions``; None is every one that is enabled.

    What only some launch methods make need not be listed if no log here says that there may be
    some: whoever never makes it may lack the permission, and another endpoint the call.
    ``unlisted`` gets why those of EC2's events were not all listed, by region: they cost nothing,
    and an error of other services keeps nothing else from being ended.
    """

    def __init__(
        self,
        connection: Connection,
        logs: Mapping[str, Unfinished],
        *,
        regions: Iterable[str] | None,
        batch_id: str | None,
    ) -> None:
        self.connection, self.logs, self.batch_id = connection, logs, batch_id
        self.unlisted: dict[str, Refusal] = {}
        given = list(regions or ())
        known = [*given, *(region for log in logs.values() for region in log.regions)]
        home = home_region([*known, connection.session.region_name or "us-east-1"][0])
        self._patient, self._near = Patient(connection), [home, *known]
        self._in_all_regions = not given
        self._recorded = {each for log in logs.values() for each in log.resources}
        self._resources = [e for e in RESOURCES if batch_id not in logs or e in self._recorded]

    def account(self) -> str | None:
        """Return whose the credentials are, where that is known."""
        if self.connection.simulated:
            return None
        try:
            reply = ask_near(self._patient, self._near, "get_caller_identity", service="sts")
        except Refusal:  # what is asked next will say what is wrong
            return None
        return str(reply["Account"])

    def everywhere(self) -> tuple[list[tuple[str, Ours]], dict[str, str]]:
        """Search all regions at once: one in trouble keeps no other waiting.  Errors are named."""
        found: list[tuple[str, Ours]] = []
        wanted, errors = set(self._near[1:]), dict[str, str]()
        if self._in_all_regions:
            try:
                wanted |= self._enabled_regions()
            except Refusal as refusal:
                if refusal.kind is Kind.CREDENTIALS:
                    raise
                errors["regions that no log names"] = str(refusal)
        with new_executor(self.connection) as executor:
            searches = {region: executor.submit(self.find, region) for region in sorted(wanted)}
            for region, search in searches.items():
                try:
                    found += [(region, each) for each in search.result()]
                except Refusal as refusal:
                    errors[region] = str(refusal)
        return found, errors

    def find(self, region: str) -> list[Ours]:
        """Return everything of ours in a region."""
        found: list[Ours] = []
        for resource in self._resources:
            try:
                for each in resource.find_ours(self._patient, region, self.batch_id):
                    found.append(each)  # what came before an error is kept
            except Refusal as refusal:
                if resource is EVENTS:
                    self.unlisted[region] = refusal
                    continue
                lacks = self._patient.foreign or refusal.kind is Kind.PERMISSION
                if resource in self._recorded or not (resource.special and lacks):
                    raise
        return found

    def _enabled_regions(self) -> set[str]:
        try:
            regions = ask_near(self._patient, self._near, "describe_regions", AllRegions=True)[
                "Regions"
            ]
        except Refusal as refusal:
            if refusal.kind is not Kind.PERMISSION:
                raise
            return set(self._patient.region_names(self._near[0]))
        return {each["RegionName"] for each in regions if each.get("OptInStatus") != "not-opted-in"}
