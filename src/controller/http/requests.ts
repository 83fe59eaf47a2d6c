/**
 * The bodies that clients send, as zod schemas. Pure.
 *
 * Fields are named as in Anka's API, and unknown ones are ignored, as clients send what other hosts use. Some clients
 * send numbers as text.
 */
import { z } from '@hono/zod-openapi';
import { LATEST, type Order, type OrderedRule, type StartupScript } from '../instance.ts';

const text = (max: number) => z.string().max(max, `must have at most ${max} characters`);
/** A field that may also be null. */
const maybe = <T extends z.ZodType>(schema: T) => schema.nullish();

/** A whole number, also as text. */
function whole(low: number, high: number) {
  const range = `must be a whole number from ${low} to ${high}`;
  return z
    .union(
      [
        z.number(),
        z
          .string()
          .regex(/^\d{1,9}$/, range)
          .transform(Number),
      ],
      { error: range },
    )
    .refine((n) => Number.isInteger(n) && n >= low && n <= high, range);
}

/** Longest startup script, bytes, and its base64. */
const MAX_SCRIPT = 128 << 10;
const base64 = z
  .string()
  .max(Math.ceil(MAX_SCRIPT / 3) * 4, `must be a script of at most ${MAX_SCRIPT} bytes`)
  .regex(/^[A-Za-z0-9+/\r\n]*={0,2}[\r\n]*$/, 'must be base64');

const metadata = z.record(text(64), z.union([text(1024), z.number(), z.boolean()])).refine((m) => Object.keys(m).length <= 64, 'must have at most 64 keys');

const rule = z.object({
  name: z.string().regex(/^[A-Za-z0-9_][A-Za-z0-9._ -]{0,31}$/, 'must be up to 32 letters, digits, dots, hyphens and underscores'),
  guest_port: whole(1, 65_535),
  host_port: maybe(whole(0, 65_535)),
  protocol: maybe(z.enum(['tcp', 'udp'], { error: 'must be tcp or udp' })),
});

export const MAX_COUNT = 50;

export const startSchema = z
  .object({
    vmid: text(128).min(1, 'must be the UUID or name of a VM'),
    tag: maybe(text(128)),
    version: maybe(z.union([z.number(), text(32)])),
    name: maybe(text(256)),
    name_template: maybe(text(256)),
    external_id: maybe(text(1024)),
    count: maybe(whole(1, MAX_COUNT)),
    node_id: maybe(text(128)),
    group_id: maybe(text(128)),
    priority: maybe(whole(0, 10_000)),
    vcpu: maybe(whole(0, 64)),
    vram: maybe(whole(0, 1 << 20)),
    startup_script: maybe(base64),
    startup_script_condition: maybe(whole(0, 1)),
    script_monitoring: maybe(z.boolean()),
    script_timeout: maybe(whole(0, 86_400)),
    script_fail_handler: maybe(whole(0, 2)),
    port_forwarding_override: maybe(z.array(rule).max(16, 'must have at most 16 rules')),
    metadata: maybe(metadata),
  })
  .openapi('StartRequest');

export type StartRequest = z.infer<typeof startSchema>;

export const updateSchema = z.object({ name: maybe(text(256)), external_id: maybe(text(1024)), metadata: maybe(metadata) }).openapi('UpdateRequest');

/** Old clients of GitLab send `instance_id`. */
export const terminateSchema = z.object({ id: maybe(text(128)), instance_id: maybe(text(128)) }).openapi('TerminateRequest');

export const imageSchema = z.object({ id: maybe(text(128)) }).openapi('ImageRequest');

const DEFAULT_PRIORITY = 1000;
/** Seconds, as in Anka's API. */
const DEFAULT_SCRIPT_TIMEOUT = 90;
const FAIL_HANDLERS = ['stop', 'keep', 'delete'] as const;

/** The order of a request, for a template. */
export function orderOf(r: StartRequest, template: { uuid: string; name: string }): Order {
  return {
    templateId: template.uuid,
    templateName: template.name,
    tag: r.tag || LATEST,
    name: r.name ?? '',
    externalId: r.external_id ?? '',
    groupId: r.group_id ?? '',
    priority: r.priority || DEFAULT_PRIORITY,
    nameTemplate: r.name_template ?? '',
    cpus: r.vcpu ?? 0,
    ram: r.vram ?? 0,
    rules: (r.port_forwarding_override ?? []).map(orderedRule),
    metadata: r.metadata ?? {},
    script: r.startup_script ? scriptOf(r, r.startup_script) : null,
  };
}

function orderedRule(r: z.infer<typeof rule>): OrderedRule {
  return { name: r.name, guestPort: r.guest_port, hostPort: r.host_port ?? 0, protocol: r.protocol ?? 'tcp' };
}

function scriptOf(r: StartRequest, script: string): StartupScript {
  return {
    text: script,
    waitNetwork: (r.startup_script_condition ?? 0) === 0,
    monitored: r.script_monitoring ?? false,
    timeout: r.script_timeout || DEFAULT_SCRIPT_TIMEOUT,
    onFailure: FAIL_HANDLERS[r.script_fail_handler ?? 0] as 'stop' | 'keep' | 'delete',
    progress: 'waiting',
  };
}
