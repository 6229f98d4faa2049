"""A thin ROS 2 node around a bundle; everything worth testing is in `bridge.py`.

ros2 run ... or: python3 node.py --ros-args -p bundle:=/path/to/bundle -p skill:=push
"""

import time

import rclpy
from bridge import Bridge
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64MultiArray, String

from clrl.deploy import Safety

_LATEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)  # sensors
_KEPT = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)  # commands


class PolicyNode(Node):
    """Takes `~/observation/PART` and `~/skill`, gives `~/action` and `~/fault`."""

    def __init__(self) -> None:
        super().__init__("clrl_policy")
        get = self.declare_parameter
        bundle, skill = get("bundle", "").value, get("skill", "").value
        safety = Safety(
            on_fault=get("on_fault", "stop").value,
            max_age=get("max_age", 0.1).value,
            slew=get("slew", 0.0).value or None,
            blend=get("blend", 0.2).value,
        )
        self.bridge = Bridge(bundle, skill, safety, time.monotonic)
        rate = self.bridge.policy.control_hz(skill) or get("rate", 20.0).value
        for part in self.bridge.policy.parts(skill):
            self.create_subscription(
                Float64MultiArray,
                f"~/observation/{part}",
                lambda message, part=part: self.bridge.receive(part, message.data),
                _LATEST,
            )
        self.create_subscription(String, "~/skill", self._switch, _KEPT)
        self._action = self.create_publisher(Float64MultiArray, "~/action", _KEPT)
        self._fault = self.create_publisher(String, "~/fault", _KEPT)
        self.create_timer(1.0 / rate, self._tick)

    def _switch(self, message: String) -> None:
        try:
            self.bridge.skill = message.data
        except ValueError as error:
            self.get_logger().error(str(error))

    def _tick(self) -> None:
        self._action.publish(Float64MultiArray(data=self.bridge.tick()))
        if self.bridge.policy.fault:
            self._fault.publish(String(data=self.bridge.policy.fault))


def main() -> None:
    """Spin until interrupted."""
    rclpy.init()
    node = PolicyNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
