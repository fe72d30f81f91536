{#- "Now", in UTC: the variable `now`, or else the DuckDB variable of the session that
    reads (`set variable now = timestamp '2026-10-23 12:00:00'`), or else the current
    time. -#}
{% macro now() -%}
    {%- if var('now') -%}
    timestamp '{{ var("now") }}'
    {%- else -%}
    coalesce(
        try_cast(getvariable('now') as timestamp),
        cast(timezone('UTC', current_timestamp) as timestamp)
    )
    {%- endif -%}
{%- endmacro %}

{#- The day that a UTC timestamp falls on in the time zone of the platform. -#}
{% macro local_date(column) -%}
    cast(timezone('{{ var("time_zone") }}', timezone('UTC', {{ column }})) as date)
{%- endmacro %}
