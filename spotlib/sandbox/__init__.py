"""A pretend spot market behind an EC2 endpoint, with known truth.  Nothing here is AWS.

The modules in reading order; each imports only modules before it (a contract of import-linter):

- ``numbers``, ``chance``, ``catalogue``, ``network``, ``market``: what exists, what each pool does.
- ``states``, ``clock``, ``queues``, ``account``, ``reads``, ``forms``, ``limits``: the parts of an
  account.
- ``console_script``, ``guests``, ``console``: what guests do and write to their consoles.
- ``delivery``, ``patterns``: how events find their way, and which ones a rule chooses.
- ``world``, ``events``, ``instance_course``, ``course``, ``company``: one account, what happens in
  it, its other users.
- ``protocol``, ``filters``, ``shapes``, ``borrowed``: the form of AWS's requests and answers.
- ``tokens``, ``launch_checks``: what all launches have in common.
- ``spot_api``, ``instance_api``, ``template_api``, ``run_api``: requests, instances, launches.
- ``fleets``, ``fleet_orders``, ``fleet_shapes``, ``fleet_api``, ``fleet_reads_api``: fleets.
- ``queue_api``, ``event_api``: the queues of SQS and the rules of EventBridge.
- ``network_api``, ``market_api``, ``quota_api``, ``identity``, ``api``: the others, and all.
- ``faults``, ``wire``, ``server``: how calls travel, in-process and over HTTP.
- ``mark``, ``history``: the market's past as a SpotLake archive, marked as simulated.
"""
