"""Where Amazon is: its partitions, the home of each, and what it is paid in."""

import pytest

from spotlib.ec2.places import currency_of, home_of_arn, home_region, is_aws, partition_of


@pytest.mark.parametrize(
    ("region", "partition", "home", "currency"),
    [
        ("us-east-1", "aws", "us-east-1", "USD"),
        ("af-south-1", "aws", "us-east-1", "USD"),
        ("us-gov-east-1", "aws-us-gov", "us-gov-west-1", "USD"),
        ("cn-north-1", "aws-cn", "cn-northwest-1", "CNY"),
        ("eusc-de-east-1", "aws-eusc", "eusc-de-east-1", "EUR"),
        ("nowhere", "aws", "us-east-1", "USD"),
    ],
)
def test_a_region_has_the_home_and_the_currency_of_its_partition(region, partition, home, currency):
    assert partition_of(region) == partition
    assert (home_region(region), currency_of(region)) == (home, currency)
    assert home_of_arn(f"arn:{partition}:iam::1:role/r") == home


@pytest.mark.parametrize("arn", ["", "arn", "arn:", "aws-cn", "arn:nowhere:iam::1:role/r"])
def test_an_arn_that_names_no_partition_is_asked_about_at_the_home_of_aws(arn):
    assert home_of_arn(arn) == "us-east-1"


@pytest.mark.parametrize("endpoint", ["a", "awr", "awt", "sandbox", "zzz", "http://aws", "-"])
def test_aws_is_called_by_its_name_or_by_a_host_of_amazon_and_by_nothing_else(endpoint):
    assert not is_aws(endpoint)
    assert is_aws("aws")
    assert is_aws("https://ec2.cn-north-1.amazonaws.com.cn")
    assert is_aws("https://ec2.us-east-1.api.aws")
