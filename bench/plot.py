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
COLORS = {'PL/pgSQL': '#3465a4', 'SQL': '#73a946', 'set-based': '#ce5c00'}
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


latency()
backlog()
writers()
for lines in tables.values():
    print('\n'.join(lines) + '\n')
if readme:
    with open(readme) as file:
        text = file.read()
    about = dict(csv.reader(open(os.path.join(results, 'about.csv'))))
    tables['about'] = ['Commit %s, %s; PostgreSQL %s; %s CPUs (%s); one fdatasync %s ms; fsync and synchronous_commit on.' % (
        about['commit'], about['date'], about['postgresql'], about['cpus'], about['cpu'], about['fsync_ms'])]
    for name, lines in tables.items():
        begin, end = '<!-- begin %s -->\n' % name, '<!-- end %s -->' % name
        head, rest = text.split(begin, 1)
        text = head + begin + '\n'.join(lines) + '\n' + rest[rest.index(end):]
    with open(readme, 'w') as file:
        file.write(text)
