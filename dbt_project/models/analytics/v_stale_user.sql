with

learners as (

    select
        user_id,
        max(last_event_at) as last_event_at
    from {{ ref('prj_class_activity') }}
    group by user_id

),

final as (

    select * from learners
    where
        last_event_at <= {{ days_before(now(), threshold('stale_after_days')) }}

)

select * from final
