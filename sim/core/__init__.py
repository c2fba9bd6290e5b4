"""What every suite shares: operational-space control and rendering on MuJoCo."""
