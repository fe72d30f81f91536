with

events as (

    select
        *,
        {{ payload_struct('VIDEO_PING') }} as fields
    from {{ ref('stg_event') }}
    where event_type = 'VIDEO_PING'

),

upcast as (

    select
        event_id,
        user_id,
        class_id,
        {{ payload_columns('VIDEO_PING') | indent(8) }}
        occurred_at,
        received_at,
        load_id,
        line
    from events

),

final as (

    select
        event_id,
        user_id,
        class_id,
        video_id,
        position_sec,
        duration_sec,
        playback_rate,
        session_id,
        occurred_at,
        received_at,
        load_id,
        line
    from upcast

)

select * from final
