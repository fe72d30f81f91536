{{ config(severity='warn') }}

-- A failing row is a class that learners work in and the catalogue does not know. That
-- is news, not an error: nothing is lost, and its steps complete once a snapshot has
-- it. So it warns, and somebody asks for a newer catalogue.
select
    class_id,
    event_count,
    user_count
from {{ ref('v_unknown_class') }}
