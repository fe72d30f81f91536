{#-
What readers are told of public models, who know no dbt: the contract of each, in
`bookkeeping.public_column`, which the snapshot has like every other table.

A public model says with `meta` which columns its rows are known by (`key`) and, where a
row is about several learners, which columns count them (`learner_counts`).
-#}

{% macro public_columns() %}
    {% set found = [] %}
    {% for node in graph.nodes.values() | selectattr('resource_type', 'equalto', 'model')
        if node.config.access == 'public' and node.config.contract.enforced %}
        {% for column in node.columns.values() %}
            {% do found.append({
                'schema_name': node.schema,
                'model': node.alias,
                'model_description': node.description,
                'place': loop.index,
                'column_name': column.name,
                'data_type': column.data_type,
                'description': column.description,
                'is_key': column.name in node.config.meta.get('key', []),
                'counts_learners':
                    column.name in node.config.meta.get('learner_counts', []),
            }) %}
        {% endfor %}
    {% endfor %}
    {{ return(found | sort(attribute='schema_name,model,place')) }}
{% endmacro %}

{% macro describe_public_models() %}
    {% if execute and makes_seeds() %}
        create or replace table bookkeeping.public_column as
        select * from (values
            {% for row in public_columns() %}
                (
                    {% for value in row.values() %}
                        {{ value if value is number else dbt.string_literal(
                            dbt.escape_single_quotes(value)
                        ) -}}
                        {{ ',' if not loop.last }}
                    {% endfor %}
                ) {{ ',' if not loop.last }}
            {% endfor %}
        ) as columns (
            schema_name, model, model_description, place, column_name, data_type,
            description, is_key, counts_learners
        )
    {% endif %}
{% endmacro %}

{#-
What every table, view and column means, by the same way: `bookkeeping.description`. The
snapshot has it as comments (orchestration/snapshot/content.py), which all clients show.
dbt's own `persist_docs` would set them again with each model that a refresh folds.
-#}
{% macro describe_relations() %}
    {% if execute and makes_seeds() %}
        {% set found = [] %}
        {% for node in graph.nodes.values() | selectattr('resource_type', 'in', ['model', 'seed']) %}
            {% do found.append((node.schema, node.alias, node)) %}
        {% endfor %}
        {% for source in graph.sources.values() %}
            {% do found.append((source.schema, source.identifier, source)) %}
        {% endfor %}
        create or replace table bookkeeping.description as
        select * from (values
            {% for schema, name, node in found -%}
                ('{{ schema }}', '{{ name }}', null, {{ text_literal(node.description) }})
                {%- for column in node.columns.values() -%}
                    , ('{{ schema }}', '{{ name }}', '{{ column.name }}', {{ text_literal(column.description) }})
                {%- endfor %}
                {{- ',' if not loop.last }}
            {% endfor %}
        ) as descriptions (schema_name, relation_name, column_name, description)
    {% endif %}
{% endmacro %}

{#-
Which views the snapshot has as tables, made with each publication: those that say
`published_as: table` in their `meta`. They are costly to read, and the same until the
next load: no "now" is in them. In `bookkeeping.published_table`.
-#}
{% macro note_published_tables() %}
    {% if execute and makes_seeds() %}
        {% set found = [] %}
        {% for node in graph.nodes.values() | selectattr('resource_type', 'equalto', 'model')
            if node.config.meta.get('published_as') == 'table' %}
            {% do found.append("('" ~ node.schema ~ "', '" ~ node.alias ~ "')") %}
        {% endfor %}
        create or replace table bookkeeping.published_table (
            schema_name varchar, table_name varchar
        );
        {% if found %}
        insert into bookkeeping.published_table values {{ found | sort | join(', ') }}
        {% endif %}
    {% endif %}
{% endmacro %}

{#- A run that makes no seed is one of an unedited project (orchestration/derive/
    dbt_runner.py): what is described stands, which spares a refresh 0.5 seconds. -#}
{% macro makes_seeds() %}
    {% set seeds = [] %}
    {% for each in selected_resources or [] if each.startswith('seed.') %}
        {% do seeds.append(each) %}
    {% endfor %}
    {% do return(seeds | length > 0) %}
{% endmacro %}

{% macro text_literal(text) -%}
    {{ dbt.string_literal(dbt.escape_single_quotes(text | trim)) }}
{%- endmacro %}
