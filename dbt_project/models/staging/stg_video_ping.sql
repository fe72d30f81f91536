with

events as (

    select
        *,
        {{ payload_struct('VIDEO_PING') }} as fields
    from {{ ref('stg_event') }}
    where event_type = 'VIDEO_PING'

),

final as (

    select
        event_id,
        user_id,
        class_id,
        {{ payload_columns('VIDEO_PING') | indent(8) }}
        occurred_at,
        received_at,
        load_id
    from events

)

select * from final
