"""A pretend spot market behind an EC2 endpoint, with known truth.  Nothing here is AWS.

The modules in reading order; each imports only modules before it (a contract of import-linter):

- ``numbers``, ``chance``, ``catalogue``, ``network``, ``market``: what exists, what each pool does.
- ``states``, ``clock``, ``account``, ``reads``, ``forms``, ``limits``: the parts of an account.
- ``world``, ``course``, ``company``: one account in that market, its events, its other users.
- ``protocol``, ``filters``, ``shapes``, ``borrowed``: the form of AWS's requests and answers.
- ``tokens``, ``launch_checks``: what all launches have in common.
- ``spot_api``, ``instance_api``, ``run_api``: what each action that launches or shows does.
- ``network_api``, ``market_api``, ``identity``, ``api``: what the others do.
- ``faults``, ``wire``, ``server``: how calls travel, in-process and over HTTP.
- ``mark``, ``history``: the market's past as a SpotLake archive, marked as simulated.
"""
