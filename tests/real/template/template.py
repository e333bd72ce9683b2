"""The SAM translator and moto's IAM over the template; and what cfn-lint does not look at."""

import json
import os
import re

import boto3
import botocore.exceptions
import moto
from cfnlint.decode import cfn_yaml
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

from checks import run

ACCOUNT, REGION = "123456789012", "us-east-1"


def source():
    with open(os.environ["TEMPLATE"]) as template:
        return template.read()


TEMPLATE = json.loads(json.dumps(cfn_yaml.loads(source())))
RESOURCES = TEMPLATE["Resources"]
PARAMETERS = {name: str(one.get("Default", "x")) for name, one in TEMPLATE["Parameters"].items()}


def resolve(value, conditions):
    """What CloudFormation would make of a value: enough for policies."""
    if isinstance(value, list):
        values = [resolve(one, conditions) for one in value]
        return [one for one in values if one is not None]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((function, argument),) = value.items()
        if function == "Ref":
            return named(argument)
        if function == "Fn::GetAtt":
            return named(".".join(argument) if isinstance(argument, list) else argument)
        if function == "Fn::If":
            condition, yes, no = argument
            return resolve(yes if condition in conditions else no, conditions)
        if function == "Fn::Sub":
            text, own = argument if isinstance(argument, list) else (argument, {})
            own = {name: resolve(one, conditions) for name, one in own.items()}
            return re.sub(
                r"\$\{([^}]+)\}", lambda match: own.get(match[1]) or named(match[1]), text
            )
    return {key: resolve(one, conditions) for key, one in value.items()}


def named(name):
    pseudo = {
        "AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT,
        "AWS::URLSuffix": "amazonaws.com", "AWS::StackName": "stack", "AWS::NoValue": None,
    }
    if name in pseudo:
        return pseudo[name]
    if name == "CampaignArn":
        return "arn:aws:personalize:%s:%s:campaign/fans" % (REGION, ACCOUNT)
    if name in PARAMETERS:
        return PARAMETERS[name] or "x"
    resource, _, attribute = name.partition(".")
    service = {"Table": "dynamodb", "Logs": "logs", "Role": "iam"}
    kind = next((service[end] for end in service if resource.endswith(end)), "lambda")
    assert resource in RESOURCES, name
    return "arn:aws:%s:%s:%s:%s" % (kind, REGION, ACCOUNT, resource) if attribute else resource


def roles():
    return {name: one["Properties"] for name, one in RESOURCES.items()
            if one["Type"] == "AWS::IAM::Role"}


async def sam():
    """the SAM translator accepts the template and leaves it as it is"""
    os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
    template = yaml_parse(source())
    translated = Translator({}, Parser()).translate(template, parameter_values={})
    assert set(translated["Resources"]) == set(RESOURCES)


def take(iam, name, trust, policies):
    trust = trust if isinstance(trust, str) else json.dumps(trust)
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    for policy in policies:
        document = json.dumps(policy["PolicyDocument"])
        iam.put_role_policy(RoleName=name, PolicyName=policy["PolicyName"], PolicyDocument=document)


async def policies():
    """moto's IAM accepts every policy and trust policy, with Pod Identity and with IRSA"""
    for conditions in [set(), {"HasOidcProvider", "HasCampaign", "HasTokens"}]:
        with moto.mock_aws():
            iam = boto3.client("iam", region_name=REGION)
            for name, role in roles().items():
                trust = resolve(role["AssumeRolePolicyDocument"], conditions)
                take(iam, name, trust, resolve(role["Policies"], conditions))


async def malformed():
    """and it refuses what is malformed"""
    good = resolve(roles()["ConnectRole"]["Policies"], set())
    trust = roles()["ConnectRole"]["AssumeRolePolicyDocument"]
    for spoil in ({"Effect": "Alow"}, {"Action": "PutItem"}, {"Resource": "table"}):
        bad = json.loads(json.dumps(good))
        bad[0]["PolicyDocument"]["Statement"][0].update(spoil)
        with moto.mock_aws():
            try:
                take(boto3.client("iam", region_name=REGION), "bad", trust, bad)
            except botocore.exceptions.ClientError as error:
                assert error.response["Error"]["Code"] == "MalformedPolicyDocument", error
            else:
                raise AssertionError("taken: %s" % spoil)


async def own_roles():
    """every function has a role and a log of its own, and no statement allows everything"""
    functions = {name: one["Properties"] for name, one in RESOURCES.items()
                 if one["Type"] == "AWS::Lambda::Function"}
    assert len(functions) == 5
    used = [json.dumps(one["Role"]) for one in functions.values()]
    assert len(set(used)) == len(used)
    for one in functions.values():
        assert one["Runtime"] == "provided.al2023", one
    for name, role in roles().items():
        for policy in role["Policies"]:
            for statement in resolve(policy["PolicyDocument"]["Statement"], {"HasCampaign"}):
                actions, resources = statement["Action"], statement["Resource"]
                for action in actions if isinstance(actions, list) else [actions]:
                    assert "*" not in action, (name, action)
                for one in resources if isinstance(resources, list) else [resources]:
                    assert one.startswith("arn:"), (name, one)


async def seed():
    """tables, routes, parameters and the output are called as the prototype's"""
    tables = {one["Properties"]["TableName"] for one in RESOURCES.values()
              if one["Type"] == "AWS::DynamoDB::Table"}
    assert tables == {
        "rt_personalize_event_manager", "rt_personalize_user_session_store",
        "rt_personalize_soccer_ux_item", "touchline_push_lease",
    }, tables
    routes = {one["Properties"]["RouteKey"] for one in RESOURCES.values()
              if one["Type"] == "AWS::ApiGatewayV2::Route"}
    assert routes == {"$connect", "$disconnect", "$default", "sendmessage", "refresh"}, routes
    parameters = {one["Properties"]["Name"] for one in RESOURCES.values()
                  if one["Type"] == "AWS::SSM::Parameter"}
    assert parameters == {
        "/rt_personalize/aws_personalize/campaign_arn",
        "/rt_personalize/aws_personalize/num_results",
        "/rt_personalize/aws_personalize/region",
        "/rt_personalize/api/api_gateway/domain",
        "/rt_personalize/api/api_gateway/stage",
    }, parameters
    assert "apiGatewayInvokeURL" in TEMPLATE["Outputs"]
    for name, one in RESOURCES.items():
        if one["Type"] in ("AWS::DynamoDB::Table", "AWS::SSM::Parameter"):
            assert one["DeletionPolicy"] == "Retain", name
        if one["Type"] == "AWS::DynamoDB::Table":
            properties = one["Properties"]
            assert properties["BillingMode"] == "PAY_PER_REQUEST", name
            assert properties["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], name
            assert properties["SSESpecification"]["SSEEnabled"], name


run(sam, policies, malformed, own_roles, seed)
