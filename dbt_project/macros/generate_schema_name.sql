{#- A layer is a folder under models/ or seeds/, and a schema of the same name. -#}
{% macro generate_schema_name(custom_schema_name, node) %}
    {%- if node.resource_type not in ('model', 'seed') -%}
        {{ target.schema }}
    {%- elif node.fqn | length < 3 -%}
        {%- do exceptions.raise_compiler_error(
            node.original_file_path ~ ': move it into the folder of a layer; the folder '
            'is its schema'
        ) -%}
    {%- elif node.fqn[1] in reserved_schemas() -%}
        {%- do exceptions.raise_compiler_error(
            node.original_file_path ~ ': another name for the folder, please; the schema '
            ~ node.fqn[1] ~ ' is not made by dbt'
        ) -%}
    {%- else -%}
        {{ node.fqn[1] }}
    {%- endif -%}
{% endmacro %}

{#- What dbt neither makes nor drops: `RESERVED` of orchestration/derive/leftovers.py. -#}
{% macro reserved_schemas() %}
    {{ return([
        'raw', 'bookkeeping', 'outbox', 'previous', 'published', 'replay', 'differing', 'main'
    ]) }}
{% endmacro %}
