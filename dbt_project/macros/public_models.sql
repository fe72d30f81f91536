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
    {% if execute %}
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
