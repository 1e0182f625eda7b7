"""A pretend spot market behind an EC2 endpoint, with known truth.  Nothing here is AWS.

The modules in reading order; each imports only modules before it (a contract of import-linter):

- ``numbers``, ``chance``, ``catalogue``, ``network``, ``market``: what exists, what each pool does.
- ``states``, ``clock``, ``account``, ``reads``, ``forms``, ``limits``: the parts of an account.
- ``console_script``, ``guests``, ``console``: what guests do and write to their consoles.
- ``world``, ``instance_course``, ``course``, ``company``: one account, its events, its other users.
- ``protocol``, ``filters``, ``shapes``, ``borrowed``: the form of AWS's requests and answers.
- ``tokens``, ``launch_checks``: what all launches have in common.
- ``spot_api``, ``instance_api``, ``template_api``, ``run_api``: requests, instances, launches.
- ``fleets``, ``fleet_orders``, ``fleet_shapes``, ``fleet_api``, ``fleet_reads_api``: fleets.
- ``network_api``, ``market_api``, ``quota_api``, ``identity``, ``api``: the others, and all.
- ``faults``, ``wire``, ``server``: how calls travel, in-process and over HTTP.
- ``mark``, ``history``: the market's past as a SpotLake archive, marked as simulated.
"""
