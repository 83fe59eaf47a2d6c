/**
 * The contract between the daemon and the code that runs guests: what a virtual machine process is made of, and what
 * can be done to it. Implemented by `launch.ts` (start, adopt) and `qmp.ts`; the daemon depends on this file only, so
 * that tests may stand in a fake machine.
 */
import type { NicBackend } from '../engine/engine.ts';

/** The accelerator that QEMU uses, probed by a real guest entry. */
export type Accelerator = 'kvm' | 'hvf' | 'tcg';

/** How a guest is booted. */
export type Boot =
  /** Kernel and initrd given to QEMU; the disk has no boot loader. */
  | { kind: 'direct'; kernel: string; initrd: string; append: string }
  /** The disk's own boot loader, through the firmware; `seed` is a NoCloud ISO. */
  | { kind: 'firmware'; seed?: string };

/** All that is needed in order to start one guest. */
export interface MachineSpec {
  uuid: string;
  name: string;
  /** Folder of disk and saved memory; owned by `uid`. */
  stateDir: string;
  /** Folder of sockets: qmp.sock, console.sock, console.log, qemu.pid, qemu.log. */
  runDir: string;
  /** MiB. */
  ram: number;
  cpus: number;
  /** qcow2 file. */
  disk: string;
  boot: Boot;
  /** The card, or null for a guest without any. */
  nic: { insideMac: number; controller: 'virtio-net' | 'e1000'; linkUp: boolean; mtu: number } | null;
  /** User and group that QEMU runs as; the caller's own when not root. */
  uid: number;
  gid: number;
  accel: Accelerator;
  /** Saved memory to resume from; removed when it is loaded, before the CPUs run. */
  resumeFrom?: string;
}

/** Why a guest's process ended. */
export interface MachineExit {
  /** `guest-shutdown` (powered off from inside or by ACPI), `quit` (we asked), `crash` (anything else). */
  cause: 'guest-shutdown' | 'quit' | 'crash';
  /** For `crash`: exit status or signal and the last lines of qemu.log. */
  reason: string;
}

/** A running guest. */
export interface Machine {
  readonly uuid: string;
  readonly pid: number;
  /** `running`, `paused` (also while saving), as QEMU says. */
  status(): Promise<'running' | 'paused'>;
  /** ACPI power button. Resolves when it was pressed, not when the guest is down. */
  powerDown(): Promise<void>;
  /** Ends the process at once. Resolves when it is gone. */
  quit(): Promise<void>;
  /** Hard reset. */
  reset(): Promise<void>;
  /** Pulls or pushes in the cable: the guest's carrier. */
  setLink(up: boolean): Promise<void>;
  /** Takes the card out of the running guest (PCI hotplug), and lets go of its backend. */
  removeCard(): Promise<void>;
  /** Puts a card with a new backend into the running guest, which has none; its cable as `linkUp` says. */
  addCard(nic: NonNullable<MachineSpec['nic']>, backend: NicBackend): Promise<void>;
  /** Whether the guest has a card. */
  hasCard(): Promise<boolean>;
  /** Saves memory to `file` (written beside and renamed) and ends the process. */
  suspendTo(file: string, onProgress?: (fraction: number) => void): Promise<void>;
  /**
   * Copies the disk as it is at this moment into a new file beside it, which reads through to the same image. The guest
   * goes on.
   */
  copyDisk(file: string): Promise<void>;
  /** Ends the copying and saving that a daemon which is gone had begun. The guest stays as it is, running or paused. */
  settle(): Promise<void>;
  /** Lets paused CPUs run. */
  unpause(): Promise<void>;
  /** Lets go of the QMP connection; the guest goes on. */
  detach(): void;
  /** Resolves once, when the process is gone, however it went. */
  readonly exited: Promise<MachineExit>;
}

/** Starts and adopts machines. */
export interface MachineRunner {
  accelerator(): Promise<Accelerator>;
  /**
   * Starts QEMU; resolves when the guest's CPUs run (or the saved memory is back). Throws with the last lines of
   * qemu.log.
   */
  launch(spec: MachineSpec, backend: NicBackend | null, onProgress?: (fraction: number) => void): Promise<Machine>;
  /** Finds a running machine by its folder (pid file and QMP socket both checked); null when there is none. */
  adopt(uuid: string, runDir: string): Promise<Machine | null>;
}

/** Progress of long work: a sentence, and a fraction 0–1 where it is known. */
export type Progress = (step: string, fraction?: number) => void;

/** The built-in guest. */
export interface BaseImage {
  disk: string;
  kernel: string;
  initrd: string;
  append: string;
  /** Private ssh key that user anka of the guest accepts; made once per host. */
  identityFile: string;
}
