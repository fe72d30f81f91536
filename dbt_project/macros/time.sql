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

{#- The day that a UTC timestamp falls on in the time zone of the platform. A zone costs
    more than all else of a query over many rows. -#}
{% macro local_date(column) -%}
    {%- if var('time_zone') == 'UTC' -%}
    cast({{ column }} as date)
    {%- else -%}
    cast(timezone('{{ var("time_zone") }}', timezone('UTC', {{ column }})) as date)
    {%- endif -%}
{%- endmacro %}

{#- A view with a wrong time zone can be made, but not read. -#}
{% macro check_time_zone() %}
    {% if execute %}
        {% set known = run_query(
            "select 1 from pg_timezone_names() "
            "where lower(name) = lower('" ~ var('time_zone') | replace("'", "''") ~ "')"
        ).rows %}
        {% if not known %}
            {% do exceptions.raise_compiler_error(
                "the variable time_zone is '" ~ var('time_zone') ~ "', which is no time "
                "zone; give an IANA name, such as Europe/Berlin"
            ) %}
        {% endif %}
    {% endif %}
{% endmacro %}
