"""The calls about rules, which choose events and send them to queues.

Each public function is one action of EventBridge: ``(world, region, params) -> result``.
"""

from __future__ import annotations

import re

from spotlib.sandbox import events, patterns
from spotlib.sandbox.account import Rule
from spotlib.sandbox.filters import page
from spotlib.sandbox.protocol import ApiError, Params, Shape, refuse_others, unsupported
from spotlib.sandbox.shapes import tag_list
from spotlib.sandbox.world import World

_NAME = re.compile(r"[.\-_A-Za-z0-9]{1,64}")
_QUEUE_ARN = re.compile(r"arn:[^:]+:sqs:(?P<region>[^:]+):(?P<account>\d{12}):[A-Za-z0-9_-]{1,80}")
_STATES = ("ENABLED", "DISABLED")
_MOST_TARGETS = 5


def put_rule(world: World, region: str, params: Params) -> Shape:
    """Create a rule, or replace all of it but its targets and tags."""
    rules, name = _rules(world, region, params), params["Name"]
    pattern, state = params.get("EventPattern", ""), params.get("State", "ENABLED")
    if not _NAME.fullmatch(name):
        raise _refused(f"Value '{name}' at 'name' failed to satisfy constraint: {_NAME.pattern}")
    if not pattern:
        raise _refused("Parameter(s) EventPattern or ScheduleExpression must be specified.")
    if state not in _STATES:
        raise _refused(f"Value '{state}' at 'state' failed to satisfy constraint: {_STATES}")
    flaw = patterns.flaw(pattern)
    if flaw:
        message = f"Event pattern is not valid. Reason: {flaw}"
        raise ApiError("InvalidEventPatternException", message)
    rule, is_new = rules.get(name), name not in rules
    if rule is None:
        arn = f"arn:{world.partition}:events:{region}:{world.account_id}:rule/{name}"
        tags = {each["Key"]: each["Value"] for each in params.get("Tags", [])}
        listed_s = world.now_s + world.events.unlisted_s(world.seed, arn, world.now_s)
        rule = rules[name] = Rule(name=name, arn=arn, tags=tags, listed_from_s=listed_s)
    rule.pattern, rule.enabled = pattern, state == "ENABLED"
    rule.description = params.get("Description", "")
    if is_new:
        events.meet_strangers(world, region, rule, world.now_s)
    return {"RuleArn": rule.arn}


def describe_rule(world: World, region: str, params: Params) -> Shape:
    """One rule."""
    rule = _rule(world, region, params)
    return {**_shape(rule), "CreatedBy": world.account_id}


def list_rules(world: World, region: str, params: Params) -> Shape:
    """The rules whose name begins with a prefix."""
    rules = _rules(world, region, params)
    prefix = params.get("NamePrefix", "")
    shapes = [
        _shape(rule)
        for name, rule in sorted(rules.items())
        if name.startswith(prefix) and rule.listed_from_s <= world.now_s
    ]
    return _page("Rules", shapes, params)


def delete_rule(world: World, region: str, params: Params) -> Shape:
    """Delete a rule, which must have no targets; one that is not there is no error."""
    rules, name = _rules(world, region, params), params["Name"]
    if name in rules and rules[name].targets:
        raise _refused("Rule can't be deleted since it has targets.")
    rules.pop(name, None)
    return {}


def put_targets(world: World, region: str, params: Params) -> Shape:
    """Let a rule send its events to queues of this region and account."""
    rule, targets = _rule(world, region, params), params["Targets"]
    for each in targets:
        found = _QUEUE_ARN.fullmatch(each["Arn"])
        if not each["Arn"].startswith("arn:"):
            reason = "Provided Arn is not in correct format."
            raise _refused(f"Parameter {each['Arn']} is not valid. Reason: {reason}")
        refuse_others(each, {"Id", "Arn"}, "PutTargets.Targets")
        if not found or (found["region"], found["account"]) != (region, world.account_id):
            raise unsupported(
                "Other targets than the queues of the region and account of a rule are not "
                f"modelled by the sandbox: {each['Arn']}"
            )
    wanted = rule.targets | {each["Id"]: each["Arn"] for each in targets}
    if len(wanted) > _MOST_TARGETS:
        message = "The requested resource exceeds the maximum number allowed."
        raise ApiError("LimitExceededException", message)
    rule.targets = wanted
    return {"FailedEntryCount": 0, "FailedEntries": []}


def list_targets_by_rule(world: World, region: str, params: Params) -> Shape:
    """The targets of a rule."""
    targets = _rule(world, region, params).targets
    return _page("Targets", [{"Id": name, "Arn": arn} for name, arn in targets.items()], params)


def remove_targets(world: World, region: str, params: Params) -> Shape:
    """Take targets from a rule; one that is not there is no error."""
    rule = _rule(world, region, params)
    for each in params["Ids"]:
        rule.targets.pop(each, None)
    return {"FailedEntryCount": 0, "FailedEntries": []}


def tag_resource(world: World, region: str, params: Params) -> Shape:
    """Add tags to a rule."""
    rule = _of_arn(world, region, params)
    rule.tags.update({each["Key"]: each["Value"] for each in params["Tags"]})
    return {}


def list_tags_for_resource(world: World, region: str, params: Params) -> Shape:
    """The tags of a rule."""
    return {"Tags": tag_list(_of_arn(world, region, params).tags)}


def _rules(world: World, region: str, params: Params) -> dict[str, Rule]:
    """The rules of the event bus that a call names: there is only the default one."""
    bus = params.get("EventBusName", "default").rpartition("/")[2]
    if bus != "default":
        raise ApiError("ResourceNotFoundException", f"Event bus {bus} does not exist.")
    return world.region(region).rules


def _rule(world: World, region: str, params: Params) -> Rule:
    name = params["Rule"] if "Rule" in params else params["Name"]
    rule = _rules(world, region, params).get(name)
    if rule is None:
        message = f"Rule {name} does not exist on EventBus default."
        raise ApiError("ResourceNotFoundException", message)
    return rule


def _of_arn(world: World, region: str, params: Params) -> Rule:
    arn = params["ResourceARN"]
    for rule in world.region(region).rules.values():
        if rule.arn == arn:
            return rule
    message = f"Rule {arn.rpartition('/')[2]} does not exist on EventBus default."
    raise ApiError("ResourceNotFoundException", message)


def _refused(message: str) -> ApiError:
    return ApiError("ValidationException", message)


def _page(name: str, shapes: list[Shape], params: Params) -> Shape:
    most = {"MaxResults": params["Limit"]} if "Limit" in params else {}
    shown, more = page(shapes, {**params, **most}, least=1)
    return {name: shown, **more}


def _shape(rule: Rule) -> Shape:
    shape = {
        "Name": rule.name,
        "Arn": rule.arn,
        "EventPattern": rule.pattern,
        "State": "ENABLED" if rule.enabled else "DISABLED",
        "EventBusName": "default",
    }
    return {**shape, **({"Description": rule.description} if rule.description else {})}
