{#-
How an incremental model knows what it has taken in.

`staging.consumed_load` has one row a model: its place (the last `load_id` it has taken
in) and the fingerprint of its rule. A model reads what is past its place, merges it
into its state and moves its place, all in one transaction: one that failed catches up
in the next run by itself, and each event is counted once.

The fingerprint covers the model's SQL, that of the views between it and its upstream
models, the seeds, the shared macros, the variables that it reads, the contracts, its
upstream models' fingerprints and, for a model that reads the catalogue, the newest catalogue load. When
it changes, the model starts over from all there is: an edited rule is never mixed with
the old one.
-#}

{% macro consumed_load() -%}
    {{ return(adapter.quote(target.database) ~ '.staging.consumed_load') }}
{%- endmacro %}

{% macro make_consumed_load() %}
    create schema if not exists staging;
    create table if not exists staging.consumed_load (
        model varchar not null,
        load_id bigint not null,
        rule_fingerprint varchar not null,
        consumed_at timestamp not null
    );
    -- The columns that a row is known by.
    alter table staging.consumed_load add column if not exists row_key varchar;
    -- What a refresh that succeeded remembers: orchestration/derive/bookkeeping.py.
    create table if not exists staging.checked_load (
        model varchar not null,
        load_id bigint not null,
        rule_fingerprint varchar not null
    );
    create table if not exists staging.refreshed (
        state varchar not null,
        project varchar not null
    );
    alter table staging.refreshed add column if not exists made varchar
{% endmacro %}

{#- The upstream of the running model: its nearest incremental models, and all the code
    that stands between. -#}
{% macro upstream() %}
    {% set found = {'models': [], 'code': [], 'reads_catalogue': false, 'seen': []} %}
    {% set ns = namespace(todo=model.depends_on.nodes | list) %}
    {% for _ in range(200) if ns.todo %}
        {% set id = ns.todo[0] %}
        {% set ns.todo = ns.todo[1:] %}
        {% if id not in found.seen %}
            {% do found.seen.append(id) %}
            {% if id.startswith('source.') %}
                {% if id.endswith('.raw.catalogue') %}
                    {% do found.update({'reads_catalogue': true}) %}
                {% endif %}
            {% else %}
                {% set node = graph.nodes[id] %}
                {% if node.config.materialized == 'incremental' %}
                    {% do found.models.append(node.name) %}
                {% else %}
                    {#- What a seed says is in its file, not in code. -#}
                    {% do found.code.append(
                        node.checksum.checksum if node.resource_type == 'seed'
                        else node.raw_code
                    ) %}
                    {% set ns.todo = ns.todo + (node.depends_on.nodes | list) %}
                {% endif %}
            {% endif %}
        {% endif %}
    {% endfor %}
    {{ return(found) }}
{% endmacro %}

{#- What the macros that state is made with become: dbt shows a model's own code only. A
    new macro in macros/engine.sql or macros/upcast.sql that a projection or a signal
    uses belongs here. -#}
{% macro shared_sql() %}
    {% set rendered = [
        moment('a', 'b'),
        sorted_array(['a', 'b']),
        union_of_arrays('a'),
        is_blank('a'),
        each_number('a', 'b'),
        each_member('a'),
        array_in_order('a'),
        count_members('a', 'b'),
    ] %}
    {% for event_type in event_contracts() %}
        {% do rendered.append(payload_struct(event_type)) %}
        {% do rendered.append(payload_columns(event_type)) %}
    {% endfor %}
    {{ return(rendered | join('\n')) }}
{% endmacro %}

{#- What the running model has consumed and what it could: a dict of `place`, `through`
    (where its place will be), `fingerprint` and `known_fingerprint`. Found out once for
    the model's SQL and once for its run. -#}
{% macro consumption() %}
    {% if 'consumption' not in model %}
        {% do model.update({'consumption': find_consumption()}) %}
    {% endif %}
    {{ return(model.consumption) }}
{% endmacro %}

{% macro find_consumption() %}
    {% set above = upstream() %}
    {% set places = {} %}
    {% set fingerprints = {} %}
    {% set rows = run_query(
        'select newest.load_id, newest.catalogue_load_id, consumed.model, '
        'consumed.load_id as place, consumed.rule_fingerprint from ('
        'select coalesce(max(load_id), 0) as load_id, '
        "coalesce(max(load_id) filter (kind = 'catalogue'), 0) as catalogue_load_id "
        'from ' ~ source('raw', 'load') ~ ') as newest '
        'left join staging.consumed_load as consumed on true'
    ).rows %}
    {% for row in rows if row.model is not none %}
        {% do places.update({row.model: row.place | int}) %}
        {% do fingerprints.update({row.model: row.rule_fingerprint}) %}
    {% endfor %}
    {% set code = model.raw_code ~ '\n' ~ above.code | join('\n') %}
    {% set rule = [code, event_contracts() | tojson, shared_sql()] %}
    {#- Who does not read a variable does not start over when it is edited. -#}
    {% if 'completion_threshold' in code %}
        {% do rule.append(var('completion_threshold')) %}
    {% endif %}
    {% if 'local_date(' in code %}
        {% do rule.append(local_date('a')) %}
    {% endif %}
    {% set ns = namespace(through=rows[0].load_id | int) %}
    {% for name in above.models %}
        {% do rule.append(fingerprints.get(name, '')) %}
        {% set ns.through = [ns.through, places.get(name, 0)] | min %}
    {% endfor %}
    {% if above.reads_catalogue %}
        {% do rule.append(rows[0].catalogue_load_id) %}
    {% endif %}
    {{ return({
        'place': places.get(model.name, 0),
        'through': ns.through,
        'fingerprint': local_md5(rule | join('\n')),
        'known_fingerprint': fingerprints.get(model.name),
    }) }}
{% endmacro %}

{#- Whether the running model derives from all there is, not from what is new. -#}
{% macro starts_over() %}
    {% if not execute or not is_incremental() %}
        {{ return(true) }}
    {% endif %}
    {% set now = consumption() %}
    {{ return(now.fingerprint != now.known_fingerprint) }}
{% endmacro %}

{#- The running model's place, 0 when it starts over. It is a literal in the SQL: DuckDB
    then skips older row groups. -#}
{% macro place() %}
    {{ return(0 if starts_over() else consumption().place) }}
{% endmacro %}

{% macro forget_when_starting_over() %}
    {% if execute and model.config.materialized == 'incremental' and is_incremental() %}
        {% if starts_over() %}
            delete from {{ this }}
        {% endif %}
    {% endif %}
{% endmacro %}

{% macro mark_consumed() %}
    {% if execute and model.config.materialized == 'incremental' %}
        {% set now = consumption() %}
        {% set key = model.config.unique_key %}
        {% set row_key = key if key is string else key | join(', ') %}
        {% if flags.EMPTY %}
            {#- `--empty` hides every load: start over in the next run. -#}
            delete from staging.consumed_load where model = '{{ model.name }}'
        {% elif now.place != now.through or now.fingerprint != now.known_fingerprint %}
            delete from staging.consumed_load where model = '{{ model.name }}';
            insert into staging.consumed_load
            (model, load_id, rule_fingerprint, consumed_at, row_key)
            values (
                '{{ model.name }}',
                {{ now.through }},
                '{{ now.fingerprint }}',
                timezone('UTC', now()),
                '{{ row_key }}'
            )
        {% endif %}
    {% endif %}
{% endmacro %}
