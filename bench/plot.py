#!/usr/bin/env python3
"""plot.py - draws the results of bench/run, and writes their tables.

    bench/plot.py RESULTS OUT [--readme FILE]

Reads RESULTS/*.csv, writes OUT/*.svg and OUT/*.png, and replaces what stands between
the markers of FILE.  It measures nothing.
"""
import csv
import os
import statistics
import sys

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt  # noqa: E402

results, out = sys.argv[1:3]
readme = sys.argv[4] if len(sys.argv) > 4 else None
plt.rcParams.update({'font.size': 10, 'axes.spines.top': False, 'axes.spines.right': False,
                     'svg.hashsalt': 'esrs', 'figure.dpi': 110})
COLORS = {'PL/pgSQL': '#3465a4', 'SQL': '#73a946', 'set-based': '#ce5c00', 'C': '#a40000'}
tables = {}


def rows(name):
    path = os.path.join(results, name + '.csv')
    if not os.path.exists(path):
        return None
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def save(figure, name):
    figure.tight_layout()
    figure.savefig(os.path.join(out, name + '.svg'), metadata={'Date': None})
    figure.savefig(os.path.join(out, name + '.png'))
    plt.close(figure)


def quantile(sorted_values, q):
    return sorted_values[min(int(len(sorted_values) * q), len(sorted_values) - 1)]


def latency():
    data = rows('latency')
    if data is None:
        return
    groups = {}
    for r in data:
        groups.setdefault((r['ordering'], int(r['clients']), int(r['rate'])), []).append(float(r['ms']))
    lines = ['| ordering | writers | commands/s | events | p50 | p90 | p99 | max |',
             '|---|---:|---:|---:|---:|---:|---:|---:|']
    figure, ax = plt.subplots(figsize=(7, 3.6))
    for (ordering, clients, rate), values in sorted(groups.items(), key=lambda g: (g[0][1], g[0][0])):
        values.sort()
        lines.append('| %s | %d | %d | %d | %.1f ms | %.1f ms | %.1f ms | %.1f ms |' % (
            ordering, clients, rate, len(values), quantile(values, .5), quantile(values, .9),
            quantile(values, .99), values[-1]))
        ax.plot(values, [100 * (i + 1) / len(values) for i in range(len(values))],
                label='%s, %d writer%s' % (ordering, clients, '' if clients == 1 else 's'),
                color='#3465a4' if ordering == 'aggregate' else '#ce5c00',
                linestyle='-' if clients == 1 else '--')
    ax.set_xscale('log')
    ax.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter('%g'))
    ax.set_xlabel('milliseconds from the commit of the event to the commit of its handler')
    ax.set_ylabel('% of events')
    ax.grid(alpha=.3)
    ax.legend(frameon=False)
    save(figure, 'latency')
    tables['latency'] = lines


def backlog():
    data = rows('backlog')
    if data is None:
        return
    groups = {}
    for r in data:
        key = (r['name'], int(r['batch_size'] or 0), int(r['partitions'] or 0))
        groups.setdefault(key, []).append(int(r['events']) / float(r['seconds']))
    limit = statistics.median(groups.pop(('INSERT ... SELECT', 0, 0)))
    lines = ['| handler | batch_size | partitions | events/s (median) | spread | of the limit |', '|---|---:|---:|---:|---:|---:|',
             '| `INSERT ... SELECT`, the limit | | | %s | | 1.00 |' % format(int(limit), ',')]
    figure, ax = plt.subplots(figsize=(7, 3.6))
    series = {}
    for (name, batch, partitions), values in groups.items():
        median = statistics.median(values)
        lines.append('| %s | %s | %d | %s | %s to %s | %.2f |' % (
            name, format(batch, ','), partitions, format(int(median), ','), format(int(min(values)), ','),
            format(int(max(values)), ','), median / limit))
        if partitions == 1:
            series.setdefault(name, []).append((batch, median))
        else:
            ax.plot([batch], [median], marker='^', markersize=9, linestyle='', color=COLORS[name],
                    label='%s, %d partitions and workers' % (name, partitions))
    for name, points in series.items():
        ax.plot(*zip(*sorted(points)), marker='o', color=COLORS[name], label=name)
    ax.axhline(limit, color='#555555', linestyle=':', label='INSERT ... SELECT (limit)')
    ax.set_xscale('log')
    ax.set_yscale('log')
    ax.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter('%d'))
    ax.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: format(int(v), ',')))
    ax.set_xlabel('batch_size')
    ax.set_ylabel('events/s')
    ax.grid(alpha=.3)
    ax.legend(frameon=False, fontsize=8)
    save(figure, 'backlog')
    tables['backlog'] = lines


def writers():
    data = rows('writers')
    if data is None:
        return
    rounds = {}
    for r in data:
        rounds.setdefault((r['notify'], r['handler']), {})[r['round']] = float(r['commands_per_s'])
    base = rounds[('off', 'none')]
    lines = ['| notifications | handler | commands/s (median) | ratio to neither (median of the rounds) | spread |',
             '|---|---|---:|---:|---:|']
    figure, ax = plt.subplots(figsize=(7, 3))
    labels, ratios, errors = [], [], [[], []]
    for (notify, handler), values in rounds.items():
        ratio = [v / base[k] for k, v in values.items()]
        median = statistics.median(ratio)
        lines.append('| %s | %s | %s | %.2f | %.2f to %.2f |' % (
            notify, handler, format(int(statistics.median(values.values())), ','), median, min(ratio), max(ratio)))
        labels.append('notify %s, handler %s' % (notify, handler))
        ratios.append(median)
        errors[0].append(median - min(ratio))
        errors[1].append(max(ratio) - median)
    ax.barh(labels[::-1], ratios[::-1], xerr=[e[::-1] for e in errors], color='#3465a4', ecolor='#222222', capsize=3)
    ax.axvline(1, color='#555555', linestyle=':')
    ax.set_xlabel('commands/s, as a ratio to neither handler nor notifications')
    save(figure, 'writers')
    tables['writers'] = lines


def rebuild():
    data = rows('rebuild')
    if data is None:
        return
    names = {'plpgsql': 'PL/pgSQL', 'c': 'C', 'set': 'set-based', 'loop': "a loop of one's own",
             'insert': '`INSERT ... SELECT`, the limit'}
    groups = {}
    for r in data:
        key = (r['model'], r['handler'], r['strategy'], r['workers'])
        groups.setdefault(key, []).append(int(r['events']) / float(r['seconds']))
    lines = ['| read model | handler | strategy | workers | events/s (median) | spread | of the limit | of the loop |',
             '|---|---|---|---:|---:|---:|---:|---:|']
    bars = {}
    for (model, handler, strategy, workers), values in groups.items():
        median = statistics.median(values)
        limit, loop = (statistics.median(groups[model, other, '', '']) for other in ('insert', 'loop'))
        lines.append('| %s | %s | %s | %s | %s | %s to %s | %.2f | %.2f |' % (
            model, names[handler], '`%s`' % strategy if strategy else '', workers, format(int(median), ','),
            format(int(min(values)), ','), format(int(max(values)), ','), median / limit, median / loop))
        if handler != 'insert':
            label = '%s, %s' % (names[handler], strategy) if strategy else names[handler]
            bars.setdefault(model, []).append((
                label + (', %s workers' % workers if int(workers or 1) > 1 else ''), median,
                median - min(values), max(values) - median, COLORS.get(names[handler], '#888888')))
    figure, axes = plt.subplots(len(bars), 1, figsize=(7, 7), squeeze=False, sharex=True,
                                gridspec_kw={'height_ratios': [len(b) for b in bars.values()]})
    for ax, (model, of_model) in zip(axes[:, 0], bars.items()):
        labels, medians, below, above, colors = zip(*of_model[::-1])
        limit = statistics.median(groups[model, 'insert', '', ''])
        ax.barh(labels, medians, xerr=[below, above], color=colors, ecolor='#222222', capsize=2)
        ax.axvline(limit, color='#555555', linestyle=':', label='INSERT ... SELECT (limit)')
        ax.set_xscale('log')
        ax.set_xlim(left=10000)
        ax.set_ylim(-.7, len(labels) - .3)
        ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: format(int(v), ',')))
        ax.tick_params(axis='y', labelsize=8)
        ax.grid(alpha=.3, axis='x')
        ax.set_axisbelow(True)
        ax.set_title('read model "%s"' % model, fontsize=10)
    axes[0][0].legend(frameon=False, fontsize=8, loc='upper right', bbox_to_anchor=(.95, .98))
    axes[-1][0].set_xlabel('events/s')
    save(figure, 'rebuild')
    tables['rebuild'] = lines
    tables['rebuild-plot'] = ['![events per second of a rebuild](results/rebuild.svg)']

    grown = {}
    for r in rows('rebuild_memory'):
        grown.setdefault((r['model'], r['handler'], r['strategy']), {})[int(r['events'])] = int(r['grown_kb']) / 1024
    counts = sorted({n for by_count in grown.values() for n in by_count})
    lines = ['| read model | handler | strategy | ' + ' | '.join('memory grown, %s events' % format(n, ',') for n in counts) + ' |',
             '|---|---|---|' + '---:|' * len(counts)]
    for (model, handler, strategy), by_count in grown.items():
        lines.append('| %s | %s | `%s` | ' % (model, names[handler], strategy) + ' | '.join(
            '%.1f MB' % by_count[n] for n in counts) + ' |')
    tables['rebuild-memory'] = lines


def thousands(value):
    return format(round(value), ',') if value >= 100 else '%.1f' % value


def streams():
    data = rows('streams')
    if data is None:
        return
    cost, wall = {}, {}
    for r in data:
        key = (r['operation'], r['language'], r['variant'], int(r['events']))
        cost.setdefault(key, {})[r['round']] = float(r['cpu_us']) / int(r['calls'])
        wall.setdefault(key, {})[r['round']] = float(r['wall_us']) / int(r['calls'])
    languages = list(dict.fromkeys(r['language'] for r in data))
    lengths = sorted({int(r['events']) for r in data})
    lines_of = [('cold', 'cold', '#a40000', 's', '-'),
                ('snapshot 100', 'snapshot_every 100', '#73a946', 'v', ':'),
                ('snapshot 50', 'snapshot_every 50', '#4e7a27', '^', '--'),
                ('snapshot 20', 'snapshot_every 20', '#2e4a14', 'd', '-.'),
                ('snapshot 10', 'snapshot_every 10', '#111111', 'x', '-'),
                ('cached', 'cached', '#3465a4', 'o', '-')]

    def median(key, of=cost):
        return statistics.median(of[key].values())

    def ratio(key, base):
        values = [v / cost[base][k] for k, v in cost[key].items()]
        return statistics.median(values), min(values), max(values)

    head = ['%s event%s' % (format(n, ','), '' if n == 1 else 's') for n in lengths]
    for operation in 'command', 'load':
        lines = ['| written in | variant | ' + ' | '.join(head) + ' |', '|---|---|' + '---:|' * len(lengths)]
        for language in languages:
            for variant, label, *_ in lines_of:
                lines.append('| %s | %s | ' % (language, label) + ' | '.join(
                    thousands(median((operation, language, variant, n))) for n in lengths) + ' |')
        tables['streams-' + operation] = lines

    # against the instance of one event, in the same round
    lines = ['| written in | variant | command: to 1 event, cached | to 1 event, cold | goal | load: to 1 event, cached | to 1 event, cold |',
             '|---|---|---:|---:|---|---:|---:|']
    for language in languages:
        for variant, label, n in [('cached again', 'cached, 1 event, once more', 1)] + [
                (variant, label, 10000) for variant, label, *_ in reversed(lines_of) if variant != 'cold']:
            cells = {(operation, base): ratio((operation, language, variant, n), (operation, language, base, 1))
                     for operation in ('command', 'load') for base in ('cached', 'cold')}
            goal = 'the noise'
            if n > 1:
                base, limit = ('cached', 1.1) if variant == 'cached' else ('cold', 2)
                goal = 'at most %g of %s: %s' % (limit, base, 'met' if cells['command', base][0] <= limit else '**missed**')
            lines.append('| %s | %s | %s | %s | %s | %.2f | %.2f |' % (
                language, label, '%.2f (%.2f to %.2f)' % cells['command', 'cached'],
                '%.2f (%.2f to %.2f)' % cells['command', 'cold'], goal, cells['load', 'cached'][0], cells['load', 'cold'][0]))
    tables['streams-ratio'] = lines
    excess = [median(k, wall) / median(k) for k in cost]
    tables['streams-wall'] = ['Medians of %d rounds. Wall time is %.2f times the CPU time in the middle of all rows, %.2f times at most.' % (
        len({r['round'] for r in data}), statistics.median(excess), max(excess))]

    figure, axes = plt.subplots(2, len(languages), figsize=(11, 6.4), sharex=True, sharey=True, squeeze=False)
    for row, operation in enumerate(('command', 'load')):
        for column, language in enumerate(languages):
            ax = axes[row][column]
            for variant, label, color, marker, style in lines_of:
                ax.plot(lengths, [median((operation, language, variant, n)) for n in lengths], label=label,
                        color=color, marker=marker, markersize=4, linestyle=style)
            ax.set_xscale('log')
            ax.set_yscale('log')
            ax.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: format(int(v), ',')))
            ax.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda v, _: '%s' % format(int(v), ',') if v >= 1 else '%g' % v))
            ax.tick_params(axis='x', labelsize=8)
            ax.grid(alpha=.3)
            ax.set_title('%s, one %s' % (language, operation), fontsize=10)
            if column == 0:
                ax.set_ylabel('CPU, microseconds')
            if row == 1:
                ax.set_xlabel('events of the instance')
    axes[0][0].legend(frameon=False, fontsize=8)
    save(figure, 'streams')
    tables['streams-plot'] = ['![CPU by the length of the stream](results/streams.svg)']


def memory():
    data = rows('memory')
    if data is None:
        return
    grown = {}
    for r in data:
        grown.setdefault((r['language'], r['state_cache_size']), []).append((int(r['before_kb']), int(r['after_kb'])))
    lines = ['| written in | `esrs.state_cache_size` | before | after %s instances | more than without a cache |' % format(
        int(data[0]['instances']), ','), '|---|---:|---:|---:|---:|']
    for (language, size), values in grown.items():
        before, after = (statistics.median(v) / 1024 for v in zip(*values))
        if size == '0':
            without = after
        lines.append('| %s | %s | %.1f MB | %.1f MB | %s |' % (
            language, size, before, after, '' if size == '0' else '%.1f MB' % (after - without)))
    tables['memory'] = lines


def engine():
    data = rows('engine')
    if data is None:
        return
    cost = {}
    for r in data:
        cost.setdefault(r['variant'], {})[int(r['round'])] = float(r['us'])

    def ratio(a, b):
        values = [cost[a][n] / cost[b][n] for n in cost[a]]
        return statistics.median(values), min(values), max(values)

    lines = ['| | CPU, microseconds | to the bare row | spread |', '|---|---:|---:|---:|']
    names = sorted(cost, key=lambda name: (not name.startswith('raw'), list(cost).index(name)))
    for name in names:
        lines.append('| %s | %.2f | %.2f | %.2f to %.2f |' % (
            (name, statistics.median(cost[name].values())) + ratio(name, 'raw')))
    tables['engine'] = lines

    goals = [('a command, beside the bare row', 'C', 'raw', 3),
             ('a command without statements, beside one with them', 'C', 'C, by statements', .5),
             ('a SQL aggregate, beside one in C', 'SQL', 'C', 2.5),
             ('10,000 commands in one call, each beside one alone', 'C, 10,000 commands in one call', 'C', 2),
             ('10,000 events of one command, each beside one alone', 'C, 10,000 events of one command', 'C', 2),
             ('a command beside itself: the noise', 'C, once more', 'C', None)]
    lines = ['| ratio | median | spread | goal |', '|---|---:|---:|---|']
    for text, a, b, goal in goals:
        r = ratio(a, b)
        lines.append('| %s | %.2f | %.2f to %.2f | %s |' % (
            (text,) + r + ('' if goal is None else 'at most %g: %s' % (goal, 'met' if r[0] <= goal else '**missed**'),)))
    tables['engine-goals'] = lines

    lines = ['| transactional handler | CPU more than without, microseconds | of it beyond the statement |', '|---|---:|---:|']
    alone = statistics.median(cost["the handlers' statement alone"].values())
    for name in names:
        if not name.endswith('handler') and 'handler that' not in name:
            continue
        more = statistics.median(cost[name][n] - cost['C'][n] for n in cost[name])
        lines.append('| %s | %.2f | %s |' % (name[3:], more, '' if 'nothing' in name else '%.2f' % (more - alone)))
    lines.append('| its statement alone, from PL/pgSQL | %.2f | |' % alone)
    tables['engine-handlers'] = lines

    figure, ax = plt.subplots(figsize=(8, 4.6))
    names.reverse()
    ax.barh(names, [statistics.median(cost[n].values()) for n in names],
            color=['#888a85' if n.startswith('raw') or n.startswith('the') else '#3465a4' for n in names])
    for i, name in enumerate(names):
        ax.text(statistics.median(cost[name].values()), i, ' %.1f' % statistics.median(cost[name].values()),
                va='center', fontsize=8)
    ax.tick_params(axis='y', labelsize=8)
    ax.set_xlabel('microseconds of CPU of the backend, for a command or a row')
    save(figure, 'engine')


def throughput():
    data = rows('throughput')
    if data is None:
        return
    tps = {}
    for r in data:
        key = r['durability'], r['product'], r['keys'], r['notify'], r['listeners']
        tps.setdefault(key, {})[int(r['round'])] = float(r['tps'])

    def ratio(a, b):
        values = [tps[a][n] / tps[b][n] for n in tps[a] if n in tps[b]]
        return '%.2f (%.2f to %.2f)' % (statistics.median(values), min(values), max(values))

    names = {'raw': 'bare INSERT', 'esrs': 'esrs', 'message-db': 'message-db'}
    lines = ['| | commit | keys | commands/s (median) | to the bare INSERT | to message-db |', '|---|---|---|---:|---:|---:|']
    bars = []
    for key in sorted(tps, key=lambda k: (k[0], k[2], k[3] != 'off', k[4], list(names).index(k[1]))):
        durability, product, keys, notify, listeners = key
        text = names[product]
        if notify != 'off':
            text += ', notifications by the worker, %s' % ('nobody listens' if listeners == '0' else '%s listeners' % listeners)
        peer = (durability, 'message-db', keys, 'off', '0')
        lines.append('| %s | %s | %s | %s | %s | %s |' % (
            text, 'asynchronous' if durability == 'async' else 'flushed', keys,
            format(round(statistics.median(tps[key].values())), ','),
            '' if product == 'raw' else ratio(key, (durability, 'raw', keys, 'off', '0')),
            ratio(key, peer) if product == 'esrs' and peer in tps else ''))
        bars.append(('%s, %s keys, %s' % (text, keys, 'async' if durability == 'async' else 'flushed'),
                     statistics.median(tps[key].values()), product))
    tables['throughput'] = lines
    figure, ax = plt.subplots(figsize=(8.5, 5))
    bars.reverse()
    ax.barh([b[0] for b in bars], [b[1] for b in bars],
            color=[{'raw': '#888a85', 'esrs': '#3465a4', 'message-db': '#ce5c00'}[b[2]] for b in bars])
    for i, b in enumerate(bars):
        ax.text(b[1], i, ' ' + format(round(b[1]), ','), va='center', fontsize=7)
    ax.tick_params(axis='y', labelsize=7)
    ax.set_xlabel('transactions per second, 8 clients')
    save(figure, 'throughput')


engine()
throughput()
latency()
backlog()
writers()
rebuild()
streams()
memory()
for lines in tables.values():
    print('\n'.join(lines) + '\n')
if readme:
    with open(readme) as file:
        text = file.read()
    about, sets = {}, {}
    for r in rows('about'):
        about.setdefault(r['set'], {})[r['key']] = r['value']
    for name in sorted(about, key='engine throughput latency backlog writers rebuild streams memory'.split().index):
        machine = about[name]
        sets.setdefault('commit %s, %s; PostgreSQL %s; %s CPUs (%s); one fdatasync %s ms' % tuple(
            machine[k] for k in ('commit', 'date', 'postgresql', 'cpus', 'cpu', 'fsync_ms')), []).append(name)
    tables['about'] = ['* %s: %s' % (', '.join(names), line) for line, names in sets.items()]
    tables['about'] += ['', 'fsync and synchronous_commit are on, where nothing else is said.']
    for name, lines in tables.items():
        begin, end = '<!-- begin %s -->\n' % name, '<!-- end %s -->' % name
        head, rest = text.split(begin, 1)
        text = head + begin + '\n'.join(lines) + '\n' + rest[rest.index(end):]
    with open(readme, 'w') as file:
        file.write(text)
