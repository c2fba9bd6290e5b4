"""The commands of `vla`: what each is for, and where its settings and its code are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConfiguredCommand:
    """A command whose arguments are Hydra overrides of one dataclass."""

    summary: str
    """One line for `vla --help`."""
    config: str
    """module:class of its configuration."""
    runner: str
    """module:function that takes the configuration."""
    example: str
    """A typical invocation."""
    simulates: bool = True
    """It draws pictures; otherwise only with `evaluate_every`."""
    continues: bool = False
    """The same command again continues an interrupted one (otherwise: `resume=true`, where there is such a field)."""


CONFIGURED = {  # of one word or two
    "demo": ConfiguredCommand(
        "Demonstrations, fine-tuning, SRPO, evaluation and a report in one run.",
        "vla.demo:DemoConfig",
        "vla.demo:run_demo",
        "vla demo output=runs/demo seed=1",
        continues=True,
    ),
    "collect": ConfiguredCommand(
        "Record episodes of an expert or a policy as a LeRobot v3 dataset.",
        "vla.rollout.collect:CollectConfig",
        "vla.rollout.collect:collect",
        "vla collect suite=tabletop tasks=[0,1] episodes_per_task=10 output=datasets/tabletop",
        continues=True,
    ),
    "data report": ConfiguredCommand(
        "What a data set is good for: quality, coverage, broken episodes, and which method to learn with.",
        "vla.offline.data_report.command:DataReportConfig",
        "vla.offline.data_report.command:data_report",
        "vla data report dataset=datasets/mixed output=runs/mixed_report",
        simulates=False,
    ),
    "sft": ConfiguredCommand(
        "Fine-tune a policy on demonstrations.",
        "vla.imitation.fine_tune:FineTuneConfig",
        "vla.imitation.fine_tune:fine_tune",
        "vla sft dataset=datasets/tabletop policy=reflex-tiny output=runs/sft",
        simulates=False,
    ),
    "train": ConfiguredCommand(
        "Improve a policy by reinforcement learning, with SRPO or GRPO.",
        "vla.rl.config:TrainConfig",
        "vla.rl.loop:train",
        "vla train algo=srpo suite=tabletop tasks=[0] policy=runs/sft seed=3",
    ),
    "offline": ConfiguredCommand(
        "Learn a policy from logged transitions by offline RL.",
        "vla.offline.command:OfflineConfig",
        "vla.offline.command:train_from_logs",
        "vla offline algo=iql dataset=datasets/rollouts reward=next.reward output=runs/offline",
        simulates=False,
    ),
    "online": ConfiguredCommand(
        "Let a policy of vla offline go on learning in a suite, beside the logs.",
        "vla.offline.online.settings:OnlineConfig",
        "vla.offline.online.command:learn_online",
        "vla online start=runs/offline suite=tabletop tasks=[0] output=runs/online",
    ),
    "libero pack": ConfiguredCommand(
        "Pack a LIBERO suite into one file, for machines without robosuite and assets.",
        "vla.libero_pack:PackConfig",
        "vla.libero_pack:pack_suite",
        "vla libero pack suite=libero_spatial output=libero_archives",
    ),
    "libero import": ConfiguredCommand(
        "Write LIBERO's own demonstrations (HDF5) as a LeRobot v3 dataset.",
        "vla.rollout.libero_import:ImportConfig",
        "vla.rollout.libero_import:import_demonstrations",
        "vla libero import demonstrations=libero_spatial suite=libero_spatial output=datasets/libero_spatial",
        continues=True,
    ),
    "reward": ConfiguredCommand(
        "Fit a reward model to labelled pairs of moments.",
        "vla.offline.reward_model.command:RewardConfig",
        "vla.offline.reward_model.command:fit_reward",
        "vla reward labels=runs/labels dataset=datasets/mixed output=runs/reward",
        simulates=False,
    ),
    "bench reward": ConfiguredCommand(
        "Compare reward models on a dataset whose true progress is known.",
        "vla.offline.reward_model.bench:BenchRewardConfig",
        "vla.offline.reward_model.bench:bench_reward",
        "vla bench reward dataset=datasets/mixed models=[runs/reward,true_progress] output=runs/bench_reward",
        simulates=False,
    ),
    "relabel": ConfiguredCommand(
        "Write a reward model's opinion of a dataset into a column of its own.",
        "vla.offline.reward_model.relabel:RelabelConfig",
        "vla.offline.reward_model.relabel:relabel",
        "vla relabel dataset=datasets/mixed reward=runs/reward name=preferences",
        simulates=False,
        continues=True,
    ),
    "audit": ConfiguredCommand(
        "Audit reward modes and encoders on rollouts whose true progress is known.",
        "vla.rewards.audit.command:AuditConfig",
        "vla.rewards.audit.command:audit",
        "vla audit suite=tabletop output=runs/audit",
    ),
    "label": ConfiguredCommand(
        "Let a vision-language model compare pairs of moments of a dataset with respect to a goal.",
        "vla.offline.labels.settings:LabelConfig",
        "vla.offline.labels.command:label",
        "vla label dataset=datasets/logs goal='open the drawer' model=Qwen/Qwen2.5-VL-7B-Instruct output=runs/labels",
        simulates=False,
        continues=True,
    ),
    "audit labels": ConfiguredCommand(
        "Audit labels against true progress, and by checks that need none.",
        "vla.offline.labels.audit:AuditLabelsConfig",
        "vla.offline.labels.audit:audit_labels",
        "vla audit labels labels=runs/labels",
        simulates=False,
    ),
    "check": ConfiguredCommand(
        "Whether a suite or a policy of your own keeps the contract.",
        "vla.check.command:CheckConfig",
        "vla.check.command:check",
        "vla check suite=my_package.my_module:MySuite policy=runs/sft",
    ),
    "eval": ConfiguredCommand(
        "Success of a policy on held-out initial states, with intervals.",
        "vla.evaluation.runner:EvaluationConfig",
        "vla.evaluation.runner:run_evaluation",
        "vla eval policy=runs/train suite=tabletop output=runs/eval",
    ),
    "deploy": ConfiguredCommand(
        "Let a policy drive an arm, simulated or real: filtered, watched, measured and recorded.",
        "real_robot.deploy_settings:DeployConfig",
        "real_robot.deploy:deploy",
        "vla deploy policy=runs/sft robot=so101 port=/dev/ttyACM0 calibration=arm.json cameras.front=0 task='lift it'",
    ),
    "robot teleoperate": ConfiguredCommand(
        "Drive an arm by keyboard or by a leader arm, and record demonstrations.",
        "real_robot.teleoperation.command:TeleoperateConfig",
        "real_robot.teleoperation.command:teleoperate",
        "vla robot teleoperate robot=so101 port=/dev/ttyACM0 calibration=arm.json cameras.front=0 task='lift it' "
        "teleoperator=leader leader_port=/dev/ttyACM1 leader_calibration=leader.json",
    ),
    "robot replay": ConfiguredCommand(
        "Ask the action filter again what a recording says it was asked, or play an episode on an arm.",
        "real_robot.recording.replay:ReplayConfig",
        "real_robot.recording.replay:replay_episode",
        "vla robot replay dataset=runs/deploy/dataset episode=0",
        simulates=False,
    ),
    "robot calibrate": ConfiguredCommand(
        "Move an arm by hand, and let its servos and a file remember its ranges.",
        "real_robot.arms.calibrate:CalibrateConfig",
        "real_robot.arms.calibrate:calibrate",
        "vla robot calibrate robot=so101 port=/dev/ttyACM0 calibration=my_arm.json",
        simulates=False,
    ),
    "robot emulate": ConfiguredCommand(
        "Run a robot made of software, with the wire protocol of the real one.",
        "real_robot.emulators.command:EmulateConfig",
        "real_robot.emulators.command:emulate",
        "vla robot emulate robot=so101 task=1 init_state=0",
    ),
    "robot faults": ConfiguredCommand(
        "Let one fault after another strike a deployment on an emulated arm, and judge what comes of it.",
        "real_robot.faults.command:FaultsConfig",
        "real_robot.faults.command:run_matrix",
        "vla robot faults rows=[brown_out,server_killed]",
    ),
    "serve": ConfiguredCommand(
        "Serve a policy over a websocket, to robots and evaluations elsewhere.",
        "real_robot.serving.command:ServeConfig",
        "real_robot.serving.command:serve_policy",
        "vla serve policy=runs/train port=8000",
        simulates=False,
    ),
}

PLAIN = {
    "report": ("Write report.html of a run folder.", "vla.evaluation.commands:report_command"),
    "compare": ("Compare two evaluations on the initial states both ran.", "vla.evaluation.commands:compare_command"),
    "merge": ("Join the parts of an evaluation that ran as shards.", "vla.evaluation.commands:merge_command"),
    "doctor": ("Check this machine, and say what to do about what is missing.", "vla.doctor:main"),
}

MOVED = {
    "bench": "python -m scripts.bench, in a checkout of the source",
    "pretrain": "python -m scripts.pretraining, in a checkout of the source",
}
"""Former commands, and what does their work now."""
