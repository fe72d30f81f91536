{#-
Which rows a data test looks at.

A test with `where: __changed_rows__`, which dbt_project.yml gives every test that has no
`where` of its own, looks in a refresh (`dbt build`) at those that changed since the last
refresh whose tests all passed: rows of a load past the model's watermark in
`bookkeeping.checked_load`. At all rows, if the model started over since. A view says with
`meta: changed_with` which model and columns know its changed rows. The daily `checks`
job (`dbt test`) looks at everything.
-#}

{#- dbt calls it for each generic test, to read what the test's `where` leaves. A `where`
    is read before any model ran, so it cannot ask for watermarks itself. -#}
{% macro duckdb__get_where_subquery(relation) %}
    {% set where = config.get('where', '') %}
    {% if '__changed_rows__' in where %}
        {% set changed = none %}
        {% if execute and flags.WHICH == 'build' and model.attached_node in graph.nodes %}
            {% set changed = changed_rows(graph.nodes[model.attached_node]) %}
        {% endif %}
        {% set where = '' if where == '__changed_rows__' and not changed
            else where | replace('__changed_rows__', changed or 'true') %}
    {% endif %}
    {% if not where %}
        {{ return(relation) }}
    {% endif %}
    {{ return(
        '(select * from ' ~ relation ~ ' where ' ~ where ~ ') as dbt_subquery'
    ) }}
{% endmacro %}

{#- The condition on the rows of a model that changed; none if all are to be tested. -#}
{% macro changed_rows(node) %}
    {% if node.config.materialized == 'incremental' %}
        {% set place = checked_place(node.name) %}
        {{ return('load_id > ' ~ place if place else none) }}
    {% endif %}
    {% set changed_with = node.config.meta.get('changed_with') %}
    {% if changed_with %}
        {% set place = checked_place(changed_with.model) %}
        {% set known_by = graph.nodes['model.' ~ project_name ~ '.' ~ changed_with.model] %}
        {% set columns = changed_with.columns | join(', ') %}
        {{ return(
            '(' ~ columns ~ ') in (select ' ~ columns ~ ' from '
            ~ known_by.relation_name ~ ' where load_id > ' ~ place ~ ')'
            if place else none
        ) }}
    {% endif %}
    {{ return(none) }}
{% endmacro %}

{#- Up to which load the rows of an incremental model were tested; 0 if none were. -#}
{% macro checked_place(name) %}
    {% set found = run_query(
        'select checked.load_id from bookkeeping.checked_load as checked '
        'inner join bookkeeping.watermark as consumed using (model, rule_fingerprint) '
        "where checked.model = '" ~ name ~ "'"
    ).rows %}
    {{ return(found[0][0] | int if found else 0) }}
{% endmacro %}
