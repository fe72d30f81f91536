{{ config(
    materialized='incremental',
    incremental_strategy='delete+insert',
    unique_key=['user_id', 'class_id']
) }}

select
    user_id,
    class_id,
    count(*) as ping_count,
    max(position_sec) as max_position_sec,
    min(occurred_at) as first_ping_at,
    max(occurred_at) as last_ping_at
from live.staging.stg_video_ping
{% if is_incremental() %}
where
    (user_id, class_id) in (
        select
            user_id,
            class_id
        from live.staging.stg_video_ping
        where
            occurred_at >= (
                select max(last_ping_at) from {{ this }}
            ) - interval '{{ var("look_back_hours") }} hours'
    )
{% endif %}
group by all
