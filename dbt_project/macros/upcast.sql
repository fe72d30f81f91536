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

{#- The decimal that was sent for a column's number, in whatever version. -#}
{% macro sent_decimal(event_type, column, line) -%}
    {{ number_in_json(
        line, event_contracts()[event_type].columns[column].values() | unique | list, column
    ) }}
{%- endmacro %}
