with

totals as (

    select
        user_id,
        max(last_event_at) as last_event_at,
        cast(sum(event_count) as bigint) as total_events
    from {{ ref('prj_user_quarter_hour') }}
    group by user_id

),

-- Exact to the microsecond, so from the events themselves; DuckDB skips the row groups
-- that have none of the last day.
recent as (

    select
        user_id,
        count(*) as events_24h
    from {{ ref('stg_event') }}
    where
        occurred_at > {{ now() }} - interval '24 hours'
        and occurred_at <= {{ now() }}
    group by user_id

),

final as (

    select
        totals.user_id,
        totals.last_event_at,
        coalesce(recent.events_24h, 0) as events_24h,
        totals.total_events
    from totals
    left join recent on totals.user_id = recent.user_id

)

select * from final
