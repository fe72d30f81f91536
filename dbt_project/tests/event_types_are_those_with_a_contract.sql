-- A failing row is an event type that only one of the two knows, the seed or the
-- contracts (ingest/contracts.py): add it to the other.
with

contract_types as (

    {% for event_type in event_contracts() -%}
    select '{{ event_type }}' as event_type
    {{ 'union all' if not loop.last }}
    {% endfor %}

)

select
    event_types.event_type as seed_event_type,
    contract_types.event_type as contract_event_type
from {{ ref('event_type') }} as event_types
full join contract_types on event_types.event_type = contract_types.event_type
where event_types.event_type is null or contract_types.event_type is null
