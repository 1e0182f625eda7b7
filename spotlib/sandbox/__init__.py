"""A pretend spot market behind a real EC2 endpoint, with known truth.  Never AWS.

The modules, each of which imports only those before it:

- ``numbers``, ``chance``, ``catalogue``, ``market``: what every pool does at any time.
- ``states``, ``clock``, ``account``, ``reads``, ``forms``, ``limits``: the parts of an account.
- ``world``, ``course``, ``company``: one account in that market, its course, its neighbours.
- ``protocol``, ``filters``, ``shapes``, ``borrowed``: how AWS words things.
- ``spot_api``, ``instance_api``, ``market_api``, ``api``: what each action does.
- ``faults``, ``wire``, ``server``: how calls travel, in-process and over HTTP.
- ``mark``, ``history``: the market's past as a SpotLake archive, marked as simulated.
"""
