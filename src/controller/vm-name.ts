/** Names of instances' VMs. Pure. */

/** Longest name of a VM, characters. */
const MAX_NAME = 63;
/** Prefix of a clone until its instance is stored with the clone's UUID. */
const CLONE_PREFIX = 'instance-';

/** What the variables of a name template stand for. */
export interface NameValues {
  templateName: string;
  templateId: string;
  nodeName: string;
  /** Milliseconds since 1970. */
  now: number;
}

/**
 * The name of a new clone. It holds all 122 random bits of the instance's id: no VM has it but the instance's own, so
 * that a controller that was killed finds its clone by it.
 */
export const cloneName = (instanceId: string): string => `${CLONE_PREFIX}${instanceId.replaceAll('-', '')}`;

/** Whether a VM has a name that only a new clone has. */
export const isCloneName = (name: string): boolean => /^instance-[0-9a-f]{32}$/.test(name);

/**
 * `$template_name-$ts` with the values of its variables, as a valid name of a VM. An unknown variable stays as text.
 */
export function expandName(template: string, v: NameValues): string {
  const values: Record<string, string> = { $template_name: v.templateName, $template_id: v.templateId, $node_name: v.nodeName, $ts: String(v.now) };
  return validName(template.replace(/\$(?:template_name|template_id|node_name|ts)(?![a-z_])/g, (variable) => values[variable] as string));
}

/** The name with the first digits of the instance's id: for a name that another VM has. */
export function numberedName(name: string, instanceId: string): string {
  const suffix = `-${instanceId.slice(0, 8)}`;
  return `${name.slice(0, MAX_NAME - suffix.length)}${suffix}`;
}

/** Other characters become hyphens; a long name keeps its end, where time stamps are. */
function validName(text: string): string {
  return (
    text
      .replace(/[^A-Za-z0-9._-]+/g, '-')
      .slice(-MAX_NAME)
      .replace(/^[-.]+/, '') || 'vm'
  );
}
