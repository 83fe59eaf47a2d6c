/** Valid names of VMs, rules and guests. */
import { AnkaError } from '../../lib/errors.ts';
import { unresolvableName } from '../../net/dns-local-zones.ts';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;

/** Throws `badValue` with the reason. Names of existing VMs are not checked. */
export function checkVmName(name: string): void {
  const bad = (why: string): never => {
    throw new AnkaError('badValue', `'${name.slice(0, 80)}' cannot be a VM's name: ${why}`);
  };
  if (name.length === 0) bad('it is empty');
  if (name.length > 63) bad('it has more than 63 characters');
  if (!/^[A-Za-z0-9._-]+$/.test(name)) bad('only letters, digits, dots, hyphens and underscores are allowed');
  if (/^[-.]/.test(name)) bad('it must begin with a letter, a digit or an underscore');
  if (UUID.test(name)) bad('it looks like a UUID');
  const taken = unresolvableName(name);
  if (taken !== null) bad(`its DNS name would not lead to it, as ${taken}`);
}

export function checkRuleName(name: string): void {
  if (!/^[A-Za-z0-9_][A-Za-z0-9._ -]{0,62}$/.test(name)) {
    throw new AnkaError(
      'badValue',
      `'${name.slice(0, 80)}' cannot be a rule's name: use up to 63 letters, digits, dots, hyphens and underscores, and begin with a letter or digit`,
    );
  }
}

/** The guest's host name: a DNS label of at most 63 letters, digits and inner hyphens (RFC 1123). */
export function hostName(vm: string): string {
  return (
    vm
      .replace(/[^A-Za-z0-9]+/g, '-')
      .slice(0, 63)
      .replace(/^-+|-+$/g, '') || 'anka-vm'
  );
}
