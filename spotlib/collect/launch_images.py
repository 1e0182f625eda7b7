"""Which image each plan launches: the user's, or the newest Amazon Linux 2023."""

from collections.abc import Mapping

from spotlib.collect.answers import Answers
from spotlib.collect.images import Image, image_of
from spotlib.ec2.refusals import Refusal
from spotlib.model import Plan

_IMAGE_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{}"
_IMAGE_NAME = "al2023-ami-2023"


def choose_images(answers: Answers, region: str, wanted: Mapping[Plan, str]) -> dict[Plan, Image]:
    """Return the image for each plan: the user's, or the newest Amazon Linux 2023."""
    newest = _newest_images(answers, region, {a for p, a in wanted.items() if p.image is None})
    ids = {plan: plan.image or newest.get(architecture) for plan, architecture in wanted.items()}
    known: dict[str, Image] = {}
    for name in sorted({image for image in ids.values() if image}):
        try:
            reply = answers.connection.call(region, "describe_images", ImageIds=[name])
        except Refusal as refusal:
            answers.problems.append(f"image {name!r} cannot be used in {region}: {refusal}")
            continue
        known |= {item["ImageId"]: image_of(item) for item in reply["Images"]}
    chosen: dict[Plan, Image] = {}
    for plan, image in ids.items():
        if image is None or image not in known:
            continue
        if known[image].architecture != wanted[plan]:
            answers.problems.append(
                f"image {image!r} is for {known[image].architecture}, "
                f"{plan.target.instance_type} is {wanted[plan]}: leave image out"
            )
            continue
        chosen[plan] = known[image]
    return chosen


def _newest_images(answers: Answers, region: str, architectures: set[str]) -> dict[str, str]:
    if not architectures:
        return {}
    if answers.connection.foreign:
        images = ((each, _foreign_image(answers, region, each)) for each in sorted(architectures))
        return {each: image for each, image in images if image}
    names = {_IMAGE_PARAMETER.format(each): each for each in sorted(architectures)}
    reply = answers.connection.call(region, "get_parameters", service="ssm", Names=list(names))
    found = {names[item["Name"]]: item["Value"] for item in reply["Parameters"]}
    for architecture in sorted(architectures - found.keys()):
        answers.problems.append(f"{region} has no Amazon Linux 2023 for {architecture}: set image")
    return found


def _foreign_image(answers: Answers, region: str, architecture: str) -> str | None:
    """Return the parameter's image if the endpoint lists it, else the newest of its name."""
    names = [_IMAGE_PARAMETER.format(architecture)]
    filters = [
        {"Name": "architecture", "Values": [architecture]},
        {"Name": "name", "Values": [f"{_IMAGE_NAME}*"]},
    ]
    call = answers.connection.call
    parameters = answers.optional(
        f"the image in {region}",
        lambda: call(region, "get_parameters", service="ssm", Names=names)["Parameters"],
        [],
    )
    images = answers.optional(
        f"the images in {region}",
        lambda: call(region, "describe_images", Filters=filters)["Images"],
        [],
    )
    given: list[str] = [each["Value"] for each in parameters]
    listed = {
        each["ImageId"]: (each.get("CreationDate", ""), each["Name"])
        for each in images
        if each.get("Architecture") == architecture and each.get("Name", "").startswith(_IMAGE_NAME)
    }
    known = [each for each in given if each in listed or not listed]
    if known:
        return known[0]
    if not listed:
        answers.problems.append(f"{region} has no Amazon Linux 2023 for {architecture}: set image")
        return None
    newest: str = max(listed, key=lambda each: listed[each])
    answers.warnings.append(
        f"no parameter in {region} names a known image: {newest}, the newest Amazon Linux 2023 for "
        f"{architecture} that the endpoint lists, is used"
    )
    return newest
