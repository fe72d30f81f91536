{#- A layer is a folder under models/ or seeds/, and a schema of the same name. -#}
{% macro generate_schema_name(custom_schema_name, node) %}
    {%- if node.resource_type not in ('model', 'seed') -%}
        {{ target.schema }}
    {%- elif node.fqn | length > 2 -%}
        {{ node.fqn[1] }}
    {%- else -%}
        {%- do exceptions.raise_compiler_error(
            node.original_file_path ~ ': move it into the folder of a layer; the folder '
            'is its schema'
        ) -%}
    {%- endif -%}
{% endmacro %}
