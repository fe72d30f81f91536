{#- The payload of one event type in the shape of its newest version, whatever version
    it came in: as a struct of everything any version has, and then as columns. Which
    field is read from where stands in the contracts (ingest/contracts/events.py). -#}

{% macro payload_struct(event_type) -%}
    {{ json_struct('payload', event_contracts()[event_type].fields) }}
{%- endmacro %}

{% macro payload_columns(event_type) -%}
    {%- for column, sources in event_contracts()[event_type].columns.items() -%}
    {%- if not loop.first %}
    {% endif -%}
    case schema_version
    {%- for version, field in sources.items() %}
    {{- ' ' }}when {{ version }} then fields.{{ field }}
    {%- endfor %} end as {{ column }},
    {%- endfor -%}
{%- endmacro %}
