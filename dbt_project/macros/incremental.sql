{#-
How an incremental model knows what it has taken in.

`bookkeeping.watermark` has one row a model: its watermark (the last `load_id` that it
has taken in) and the fingerprint of its rule. A model reads what is past its watermark,
merges it into its state and moves the watermark, all in one transaction: one that failed
catches up in the next run by itself, and each event is counted once.

The fingerprint covers the model's SQL, that of the views between it and its upstream
models, the seeds, the macros and the variables that they use, its upstream models'
fingerprints and, for a model that reads the catalogue, the newest catalogue load. When it
changes, the model starts over from all there is: an edited rule is never mixed with the
old one.
-#}

{% macro watermark_table() -%}
    {{ return(adapter.quote(target.database) ~ '.bookkeeping.watermark') }}
{%- endmacro %}

{% macro make_bookkeeping() %}
    create schema if not exists bookkeeping;
    create table if not exists bookkeeping.watermark (
        model varchar not null,
        load_id bigint not null,
        rule_fingerprint varchar not null,
        consumed_at timestamp not null,
        -- The columns that a row is known by.
        row_key varchar
    );
    -- What a refresh that succeeded remembers: orchestration/derive/bookkeeping.py.
    create table if not exists bookkeeping.checked_load (
        model varchar not null,
        load_id bigint not null,
        rule_fingerprint varchar not null
    );
    create table if not exists bookkeeping.refreshed (
        state varchar not null,
        project varchar not null,
        made varchar
    );
    -- What this project makes, or once made: orchestration/derive/leftovers.py.
    create table if not exists bookkeeping.relation (
        schema_name varchar not null,
        name varchar not null,
        in_project boolean not null,
        is_public boolean not null
    );
    create or replace view bookkeeping.model_lag as
    select
        watermark.model,
        watermark.load_id,
        watermark.consumed_at,
        (select coalesce(max(load_id), 0) from raw.load) as newest_load_id,
        count(missing.load_id) as loads_behind,
        cast(coalesce(sum(missing.accepted), 0) as bigint) as events_behind,
        min(missing.received_at) as behind_since
    from bookkeeping.watermark as watermark
    left join raw.load as missing on watermark.load_id < missing.load_id
    group by watermark.model, watermark.load_id, watermark.consumed_at
{% endmacro %}

{#- Notes at the start of a run what the project has, and what it no longer has. The
    watermark of a model that is gone goes with it: it would hold up whoever asks for the
    least one, and a model that comes back starts over. -#}
{% macro remember_relations() %}
    {% set relations = [] %}
    {% set models = [] %}
    {% set nodes = graph.nodes.values() if execute else [] %}
    {% for node in nodes if node.resource_type in ('model', 'seed') %}
        {% do relations.append(
            "('" ~ node.schema ~ "', '" ~ node.alias ~ "', "
            ~ (node.get('access') == 'public') ~ ')'
        ) %}
        {% do models.append("'" ~ node.name ~ "'") %}
    {% endfor %}
    {% if relations %}
        merge into bookkeeping.relation as known
        using (
            from (values {{ relations | join(', ') }})
            as project (schema_name, name, is_public)
        ) as project
        on known.schema_name = project.schema_name and known.name = project.name
        when matched then update set in_project = true, is_public = project.is_public
        when not matched then insert (schema_name, name, in_project, is_public)
        values (project.schema_name, project.name, true, project.is_public)
        when not matched by source then update set in_project = false;
        delete from {{ watermark_table() }}
        where model not in ({{ models | join(', ') }})
    {% endif %}
{% endmacro %}

{#- The upstream of the running model: its nearest incremental models, and all the code
    that stands between. -#}
{% macro upstream() %}
    {% set found = {'models': [], 'code': [], 'reads_catalogue': false} %}
    {% set seen = [] %}
    {% set ns = namespace(todo=model.depends_on.nodes | list) %}
    {% for _ in range(200) if ns.todo %}
        {% set id = ns.todo[0] %}
        {% set ns.todo = ns.todo[1:] %}
        {% if id not in seen %}
            {% do seen.append(id) %}
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

{#- The text of the project's macros that this code names, and of those that they name.
    Found by their names: dbt knows the macros that were called, which are other ones when
    a model starts over. The macros of this file are left out: they choose the rows, and
    say nothing of what becomes of them. -#}
{% macro code_of_macros(code) %}
    {% set found = {} %}
    {% set ns = namespace(todo=[code]) %}
    {% for _ in range(500) if ns.todo %}
        {% set names = modules.re.findall('([a-z_]+)[(]', ns.todo[0]) %}
        {% set ns.todo = ns.todo[1:] %}
        {% for name in names if name in context and name not in found %}
            {% set used = context[name].macro %}
            {% if
                used and used.package_name == project_name
                and not used.original_file_path.endswith('incremental.sql')
            %}
                {% do found.update({name: used.macro_sql}) %}
                {% set ns.todo = ns.todo + [used.macro_sql] %}
            {% endif %}
        {% endfor %}
    {% endfor %}
    {{ return(found.values() | sort | join('\n')) }}
{% endmacro %}

{#- What the running model has consumed and what it could: a dict of `watermark`,
    `through` (where its watermark will be), `fingerprint` and `known_fingerprint`. Found
    out once for the model's SQL and once for its run. -#}
{% macro consumption() %}
    {% if 'consumption' not in model %}
        {% do model.update({'consumption': find_consumption()}) %}
    {% endif %}
    {{ return(model.consumption) }}
{% endmacro %}

{% macro find_consumption() %}
    {% set above = upstream() %}
    {% set watermarks = {} %}
    {% set fingerprints = {} %}
    {% set rows = run_query(
        'select newest.load_id, newest.catalogue_load_id, consumed.model, '
        'consumed.load_id as watermark, consumed.rule_fingerprint from ('
        'select coalesce(max(load_id), 0) as load_id, '
        "coalesce(max(load_id) filter (kind = 'catalogue'), 0) as catalogue_load_id "
        'from ' ~ source('raw', 'load') ~ ') as newest '
        'left join ' ~ watermark_table() ~ ' as consumed on true'
    ).rows %}
    {% for row in rows if row.model is not none %}
        {% do watermarks.update({row.model: row.watermark | int}) %}
        {% do fingerprints.update({row.model: row.rule_fingerprint}) %}
    {% endfor %}
    {% set code = model.raw_code ~ '\n' ~ above.code | join('\n') %}
    {% set rule = [code, code_of_macros(code)] %}
    {#- Who does not read a variable does not start over when it is edited. -#}
    {% set read = modules.re.findall('var[(].([a-z_]+)', rule | join('\n')) %}
    {% for name in read | unique | sort %}
        {% do rule.append(var(name)) %}
    {% endfor %}
    {% set ns = namespace(through=rows[0].load_id | int) %}
    {% for name in above.models %}
        {% do rule.append(fingerprints.get(name, '')) %}
        {% set ns.through = [ns.through, watermarks.get(name, 0)] | min %}
    {% endfor %}
    {% if above.reads_catalogue %}
        {% do rule.append(rows[0].catalogue_load_id) %}
    {% endif %}
    {{ return({
        'watermark': watermarks.get(model.name, 0),
        'through': ns.through,
        'fingerprint': local_md5(rule | join('\n')),
        'known_fingerprint': fingerprints.get(model.name),
    }) }}
{% endmacro %}

{#- Whether the running model derives from all there is, not from what is new. -#}
{% macro starts_over() %}
    {% if not execute or flags.FULL_REFRESH %}
        {{ return(true) }}
    {% endif %}
    {% set relation = adapter.get_relation(this.database, this.schema, this.table) %}
    {% if relation is none or relation.type != 'table' %}
        {{ return(true) }}
    {% endif %}
    {% set now = consumption() %}
    {{ return(now.fingerprint != now.known_fingerprint) }}
{% endmacro %}

{#- dbt asks it of every table. One that starts over is made anew, beside the old one
    until all of it is there: with other columns, too, if its rule has others. -#}
{% macro should_full_refresh() %}
    {% set given = config.get('full_refresh') %}
    {% if given is not none %}
        {{ return(given) }}
    {% endif %}
    {{ return(
        flags.FULL_REFRESH
        or (model.config.materialized == 'incremental' and starts_over())
    ) }}
{% endmacro %}

{#- The running model's watermark, 0 when it starts over. It is a literal in the SQL:
    DuckDB then skips older row groups. -#}
{% macro watermark() %}
    {{ return(0 if starts_over() else consumption().watermark) }}
{% endmacro %}

{% macro mark_consumed() %}
    {% if execute %}
        {% set now = consumption() %}
        {% set key = model.config.unique_key %}
        {% set row_key = key if key is string else key | join(', ') %}
        {% if flags.EMPTY %}
            {#- `--empty` hides every load: start over in the next run. -#}
            delete from {{ watermark_table() }} where model = '{{ model.name }}'
        {% elif
            now.watermark != now.through or now.fingerprint != now.known_fingerprint
        %}
            delete from {{ watermark_table() }} where model = '{{ model.name }}';
            insert into {{ watermark_table() }}
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

{#- DuckDB holds the smaller side of a join in memory. It takes what is past a watermark
    for a fifth of all events, and then holds the whole state instead of what is new,
    which costs up to ten times as much. Between these two hooks a model that reads
    events holds the side that is written second. -#}
{% macro hold_second_side() %}
    {% if execute and is_incremental() and not starts_over() and not upstream().models %}
        set disabled_optimizers = 'build_side_probe_side'
    {% else %}
        reset disabled_optimizers
    {% endif %}
{% endmacro %}

{% macro hold_smaller_side() %}
    reset disabled_optimizers
{% endmacro %}
